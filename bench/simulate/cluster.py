"""Runs planned jobs on a fleet: events in virtual time, every decision by the scheduler's own functions.

The simulation replaces what is not the scheduler: the broker (a free worker claims when a job is created or a slot is
freed), training (it takes its time), and heartbeats. Leases and the presence of workers last until the worker dies, and
from then as long as the last heartbeat would have made them last.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.files.tables import File, FileStatus
from app.core.files.uploads import ReceivedFile
from app.core.jobs import gangs, leases, lifecycle, members, outcomes, preemption
from app.core.jobs.gangs import Slot
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import JobStatus, StopRequest
from app.core.jobs.tables import AttemptMember, Job
from app.core.settings import Settings
from app.core.spec.hardware import Hardware
from app.core.spec.job import ImitationMethod, JobSpec, MethodType
from app.core.spec.reports import Finished
from app.core.spec.resources import Resources
from app.core.workers import presence
from app.core.workers.tables import Worker, WorkerState
from bench.simulate.clock import moment
from bench.simulate.states import LOAD_SECONDS, Machine, Measured, Run, Sample
from bench.simulate.workload import DAY, REPAIR_SECONDS, Fleet, PlannedJob

FOREVER: Final = 3650 * DAY
SAVE_SECONDS: Final = 15.0
"""Time in which a preempted job saves its checkpoint."""
SAMPLE_SECONDS: Final = 900.0
POLL_SECONDS: Final = 4.0
"""Between polls of a slot that waits for a job over several workers; a worker's are one second apart."""
KIND: Final = "1.0 H100"


class Simulation:
    """A heap of events in virtual time."""

    def __init__(self, database: Database, fleet: Fleet, jobs: list[PlannedJob], settings: Settings, seed: int) -> None:
        self.measured = Measured()
        self._database = database
        self._fleet = fleet
        self._jobs = jobs
        self._settings = settings
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._machines = {
            machine.name: machine
            for kind, count in sorted(fleet.kinds.items())
            for machine in (Machine(f"worker-{kind}-{number}:1", kind) for number in range(count))
        }
        self._idle = {machine.name: machine for machine in self._machines.values()}
        self._planned: dict[str, PlannedJob] = {}
        self._done: dict[str, float] = {}
        self._queued = 0
        self._files: list[str] = []
        self._orphans: dict[str, tuple[Run, float]] = {}
        """Runs of dead workers whose lease has not expired, by job, and when the worker died."""

    def run(self, report: Callable[[str], None]) -> Measured:
        """Run until every job has ended."""
        with moment(self._database, 0) as session:
            self._set_up(session)
        for job in self._jobs:
            self._at(job.created, partial(self._create, job))
        for machine in self._machines.values():
            self._fail_later(0.0, machine)
        self._at(0.0, self._sweep)
        self._at(0.0, self._sample)
        reported = time.monotonic()
        while self.measured.succeeded + self.measured.failed < len(self._jobs):
            now, _, event = heapq.heappop(self._events)
            event(now)
            self.measured.hours = now / 3600
            if time.monotonic() > reported + 10:
                reported = time.monotonic()
                ended = self.measured.succeeded + self.measured.failed
                report(f"{now / 3600:.1f} h: {ended:,} of {len(self._jobs):,} jobs ended, {self._queued:,} queued")
        return self.measured

    def _at(self, seconds: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._numbers), event))

    def _set_up(self, session: Session) -> None:
        for number in range(max(job.project for job in self._jobs) + 1):
            project = Project(id=f"proj_{number}", name=f"Project {number}")
            session.add(project)
            session.flush()
            file_id = ids.file_id()
            self._files.append(file_id)
            session.add(
                File(
                    id=file_id,
                    project_id=project.id,
                    filename="rows.jsonl",
                    purpose="fine-tune",
                    bytes=1,
                    sha256="0" * 64,
                    blob=f"files/{file_id}",
                    status=FileStatus.processed,
                )
            )
        for machine in self._machines.values():
            self._report_presence(session, machine)

    def _hardware(self, machine: Machine) -> Hardware:
        return Hardware(
            accelerator="H100",
            accelerators=machine.gpus,
            accelerator_memory_bytes=80 << 30,
            processes=1,
            memory_bytes=1 << 40,
        )

    def _report_presence(self, session: Session, machine: Machine) -> None:
        presence.beat(
            session,
            machine.name,
            state=WorkerState.ready,
            queues=[presence.TRAIN_QUEUE],
            slots=1,
            hardware=self._hardware(machine),
            kind=KIND,
        )
        self._is_seen(session, machine, FOREVER)

    def _is_seen(self, session: Session, machine: Machine, seconds: float) -> None:
        seen = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        session.execute(update(Worker).where(Worker.name == machine.name).values(last_seen=seen))

    def _create(self, job: PlannedJob, now: float) -> None:
        spec = JobSpec(
            model="model",
            method=MethodType.supervised,
            settings=ImitationMethod(),
            seed=job.number,
            resources=Resources(gpus=job.gpus, nodes=job.nodes),
        )
        with moment(self._database, now) as session:
            created = lifecycle.create(
                session,
                Actor(f"proj_{job.project}"),
                spec=spec,
                training_file=self._files[job.project],
                validation_file=None,
                priority=job.priority,
                has_signal=True,
            )
        self._planned[created.id] = job
        self._queued += 1
        self._offer(now)

    def _offer(self, now: float) -> None:
        """Let idle workers claim, in random order, until those with equally many GPUs find nothing."""
        idle = list(self._idle.values())
        self._random.shuffle(idle)
        hopeless = set[int]()
        for machine in idle:
            if not self._queued:
                return
            if machine.slot is None and machine.gpus not in hopeless and not self._claim(now, machine):
                hopeless.add(machine.gpus)

    def _claim(self, now: float, machine: Machine) -> bool:
        """Claim a job, or begin to wait for one over several workers; return False if there is none of either."""
        slot = gangs.new_slot(machine.name, KIND)
        with moment(self._database, now) as session:
            claim = self._timed_claim(session, machine, slot)
            waits = claim is None and gangs.is_awaited(session, machine.gpus)
            if waits:
                gangs.wait(session, slot, machine.gpus)
            names = [] if claim is None else [member.worker for member in members.members_of(session, claim)]
        if claim is not None:
            self._start(now, machine, claim, names)
        elif waits:
            machine.slot = slot
            self._at(now + POLL_SECONDS, partial(self._poll, machine, slot))
        return claim is not None or waits

    def _poll(self, machine: Machine, slot: Slot, now: float) -> None:
        """What `worker.idle_wait` does at each poll."""
        if machine.slot is not slot:
            return  # it leads or joins a job, or has died
        names: list[str] = []
        with moment(self._database, now) as session:
            gangs.lock(session, slot)
            claim = self._timed_claim(session, machine, slot)
            is_awaited = gangs.is_awaited(session, machine.gpus)
            if claim is not None:
                names = [member.worker for member in members.members_of(session, claim)]
            if claim is not None or not is_awaited:
                gangs.leave(session, slot)
            else:
                gangs.wait(session, slot, machine.gpus)
        if claim is not None:
            self._start(now, machine, claim, names)
        elif is_awaited:
            self._at(now + POLL_SECONDS, partial(self._poll, machine, slot))
        else:
            machine.slot = None

    def _timed_claim(self, session: Session, machine: Machine, slot: Slot) -> Claim | None:
        started = time.perf_counter()
        claim = leases.claim(session, machine.name, FOREVER, hardware=self._hardware(machine), slot=slot)
        times = self.measured.empty_claim_ms if claim is None else self.measured.claim_ms
        times.append(1000 * (time.perf_counter() - started))
        return claim

    def _start(self, now: float, leader: Machine, claim: Claim, names: list[str]) -> None:
        job = self._planned[claim.job_id]
        self.measured.waits.setdefault(job.number, now - job.created)
        done = self._done.get(claim.job_id, 0.0)
        machines = [leader, *(self._machines[name] for name in names)]
        run = Run(job, claim, machines, now, done, now + LOAD_SECONDS + job.seconds - done)
        for machine in machines:
            machine.run, machine.slot = run, None
            del self._idle[machine.name]
        self._queued -= 1
        self._at(run.ends, partial(self._finish, run))

    def _finish(self, run: Run, now: float) -> None:
        if not self._is_current(run) or run.is_stopping:
            return
        finished = Finished(
            step=1, path="/", trained_tokens=1, published_step=1, reason="The adapter after the last step."
        )
        file_id = ids.file_id()
        with moment(self._database, now) as session:
            outcomes.succeed(session, run.claim, finished, "blob", "model", ReceivedFile(file_id, file_id, 1, "0" * 64))
        self.measured.succeeded += 1
        self.measured.useful += run.job.work
        self._free(now, run)

    def _is_current(self, run: Run) -> bool:
        return run.machines[0].run is run and not run.is_broken

    def _free(self, now: float, run: Run) -> None:
        self.measured.starting += min(LOAD_SECONDS, now - run.began) * run.gpus
        for machine in run.machines:
            machine.run = None
            if machine.is_up:
                self._idle[machine.name] = machine
        for machine in run.machines:
            if self._queued and machine.is_up and machine.run is None and machine.slot is None:
                self._claim(now, machine)

    def _fail_later(self, now: float, machine: Machine) -> None:
        if self._fleet.failures_per_day:
            self._at(now + self._random.expovariate(self._fleet.failures_per_day / DAY), partial(self._die, machine))

    def _die(self, machine: Machine, now: float) -> None:
        self.measured.failures += 1
        machine.is_up = False
        self._idle.pop(machine.name, None)
        machine.slot = None
        with moment(self._database, now) as session:
            self._is_seen(session, machine, 0.0)
            if (run := machine.run) is not None and not run.is_broken:
                self._save(session, run, now)
                self._let_lease_end(session, run, machine)
        if run is not None and not run.is_broken:
            run.is_broken = True
            self.measured.repeated += (run.trained(now) - run.saved(now)) * run.gpus
            self._orphans[run.claim.job_id] = run, now
        self._at(now + self._random.expovariate(1 / REPAIR_SECONDS), partial(self._come_back, machine))

    def _let_lease_end(self, session: Session, run: Run, machine: Machine) -> None:
        """Let the lease of a dead machine end as its last heartbeat would have."""
        lease, heartbeat = self._settings.lease_seconds, self._settings.heartbeat_seconds
        left = lease - self._random.uniform(0, heartbeat)
        until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, left)
        node = run.machines.index(machine)
        if node == 0:
            session.execute(update(Job).where(Job.id == run.claim.job_id).values(lease_until=until))
            return
        member = (
            AttemptMember.job_id == run.claim.job_id,
            AttemptMember.attempt == run.claim.attempt,
            AttemptMember.node == node,
        )
        session.execute(update(AttemptMember).where(*member).values(lease_until=until))

    def _come_back(self, machine: Machine, now: float) -> None:
        machine.is_up = True
        self._fail_later(now, machine)
        with moment(self._database, now) as session:
            self._is_seen(session, machine, FOREVER)
        if machine.run is not None:
            return  # the job that it lost is freed when its lease expires
        self._idle[machine.name] = machine
        if self._queued:
            self._claim(now, machine)

    def _save(self, session: Session, run: Run, now: float) -> None:
        """Store the last checkpoint. Progress resets the crash budget, as the reports of steps do."""
        saved = run.saved(now)
        if saved > run.done:
            leases.update_owned(session, run.claim, step=int(saved), crashes=0)
        self._done[run.claim.job_id] = saved

    def _sweep(self, now: float) -> None:
        self._at(now + self._settings.sweep_seconds, self._sweep)
        if not self._queued and not self._orphans:
            return  # it would change nothing
        started = time.perf_counter()
        with moment(self._database, now) as session:
            expired = leases.expire(session)
        with moment(self._database, now) as session:
            preempted = preemption.make_room(session, self._settings.sweep_seconds)
        self.measured.sweep_ms.append(1000 * (time.perf_counter() - started))
        if expired:
            self._note_expired(now)
        if preempted:
            self.measured.preemptions += preempted
            self._stop_preempted(now)
        if self._queued and self._idle:
            self._offer(now)

    def _note_expired(self, now: float) -> None:
        """Find what became of the jobs of dead workers: queued again, or failed after too many crashes."""
        with moment(self._database, now) as session:
            statuses = session.execute(select(Job.id, Job.status).where(Job.id.in_(list(self._orphans)))).all()
        for job_id, status in statuses:
            if status != JobStatus.running:
                run, died = self._orphans.pop(job_id)
                self._queued += status == JobStatus.queued
                self.measured.failed += status == JobStatus.failed
                self.measured.lost += (now - died) * run.gpus
                self._free(now, run)

    def _stop_preempted(self, now: float) -> None:
        with moment(self._database, now) as session:
            asked = set(session.scalars(select(Job.id).where(Job.stop_request == StopRequest.preempt)))
        for machine in self._machines.values():
            run = machine.run
            if run is not None and self._is_current(run) and run.claim.job_id in asked and not run.is_stopping:
                run.is_stopping = True
                self._at(now + SAVE_SECONDS, partial(self._preempt, run))

    def _preempt(self, run: Run, now: float) -> None:
        if not self._is_current(run):
            return  # one of its workers has died
        with moment(self._database, now) as session:
            outcomes.stop(session, run.claim, StopRequest.preempt)
        self._done[run.claim.job_id] = min(run.job.seconds, run.trained(now))
        self._queued += 1
        self._free(now, run)

    def _sample(self, now: float) -> None:
        self._at(now + SAMPLE_SECONDS, self._sample)
        with moment(self._database, now) as session:
            session.execute(text("ANALYZE jobs, job_attempts, job_events"))  # autovacuum is slower than this clock
        runs = [machine.run.job.gpus for machine in self._machines.values() if machine.run is not None]
        self.measured.samples.append(
            Sample(
                hours=now / 3600,
                queued=self._queued,
                used_gpus=sum(runs),
                held_gpus=sum(machine.gpus for machine in self._machines.values() if machine.run is not None),
                up_gpus=sum(machine.gpus for machine in self._machines.values() if machine.is_up),
            )
        )
