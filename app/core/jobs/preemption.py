"""Preemption: a running job of a lower priority saves a checkpoint and makes room for a queued job.

A queued job must have waited for `patience_seconds`, longer than one round of the sweeper. A free worker that has not
been notified yet would otherwise claim it without preempting anything.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from app.core.jobs.controls import waits_sql
from app.core.jobs.events import Event, append
from app.core.jobs.gangs import HOLD_SECONDS, REST_SECONDS, idle_slots
from app.core.jobs.leases import NO_LIMIT
from app.core.jobs.occupancy import occupied_slots
from app.core.jobs.placement import REPORTED_SECONDS, slots_by_kind, training_workers
from app.core.jobs.state_machine import JobStatus, StopRequest
from app.core.jobs.tables import Job
from app.core.workers.presence import WorkerPresence

Suits = Callable[[str], bool]
"""Whether a slot of the worker with this name is a place for the waiting job."""

# Queued jobs that have waited long enough and outrank some running job, in the order in which `leases` claims them; no
# more of them than jobs run. While free workers take other jobs before one over several workers (`gangs.REST_SECONDS`),
# a place that is made for it would be lost to them. `room` is the number of further jobs that the project may run.
_WAITING: Final = text(
    f"""
    SELECT candidate.id, candidate.project_id, candidate.priority, candidate.gpus, candidate.nodes,
           coalesce(project.max_running_jobs, :max_running_jobs) - coalesce(busy.jobs, 0) AS room
    FROM jobs AS candidate
    LEFT JOIN (SELECT project_id, count(*) AS jobs FROM jobs WHERE status = 'running' GROUP BY project_id) AS busy
        ON busy.project_id = candidate.project_id
    JOIN projects AS project ON project.id = candidate.project_id
    LEFT JOIN project_usage AS usage
        ON usage.project_id = project.id AND usage.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
    WHERE candidate.status = 'queued' AND candidate.eligible_at <= now() - make_interval(secs => :patience_seconds)
          AND NOT {waits_sql("candidate")}
          AND (candidate.held_at IS NULL OR candidate.held_at > now() - make_interval(secs => {HOLD_SECONDS})
               OR candidate.held_at < now() - make_interval(secs => {HOLD_SECONDS + REST_SECONDS}))
          AND coalesce(usage.gpu_seconds, 0) < coalesce(project.max_gpu_hours, :max_gpu_hours) * 3600.0
          AND candidate.priority > (SELECT min(priority) FROM jobs WHERE status = 'running' AND stop_request IS NULL)
    ORDER BY candidate.priority DESC, coalesce(busy.jobs, 0), candidate.eligible_at, candidate.created_at, candidate.id
    LIMIT (SELECT count(*) FROM jobs WHERE status = 'running')
    """  # noqa: S608 - constants
)


@dataclass
class _RunningJobs:
    """Running jobs that may be preempted, and the slots that become free because their jobs are stopping."""

    jobs: list[Job]
    workers: Mapping[str, Sequence[str]]
    """Job -> its workers; a job over several has one slot on each of them."""
    free: list[str]
    """Worker of each slot that becomes free, and that no waiting job has taken yet."""

    def preempt_for(
        self, waiting: Row[Any], needed: int, suits: Suits, *, has_room: bool
    ) -> tuple[list[Job], bool] | None:
        """Remove and return the jobs to preempt so that `needed` slots are free; None if there are too few of them.

        Also returns whether slots count that other jobs are leaving already.
        `has_room`: whether the project may run a further job; otherwise one of its own makes place.
        """
        taken = [worker for worker in self.free if suits(worker)][:needed] if has_room else []
        victims, count = list[Job](), len(taken)
        while count < needed:
            victim = self._victim(waiting, suits, has_room, victims)
            if victim is None:
                return None
            victims.append(victim)
            count += self._slots(victim, suits)
        for victim in [*victims]:  # a job over several workers may make another victim needless
            if count - self._slots(victim, suits) >= needed:
                victims.remove(victim)
                count -= self._slots(victim, suits)
        self.jobs = [job for job in self.jobs if job not in victims]
        self.free += [worker for victim in victims for worker in self.workers.get(victim.id, ())]
        for worker in [worker for worker in self.free if suits(worker)][:needed]:
            self.free.remove(worker)
        return victims, bool(taken)

    def _slots(self, job: Job, suits: Suits) -> int:
        return sum(map(suits, self.workers.get(job.id, ())))

    def _victim(self, waiting: Row[Any], suits: Suits, has_room: bool, others: Sequence[Job]) -> Job | None:
        """Return the job to preempt next: the lowest priority, and among equals the fewest steps to lose."""
        eligible = [
            job
            for job in self.jobs
            if job.priority < waiting.priority
            and (has_room or job.project_id == waiting.project_id)
            and self._slots(job, suits)
            and job not in others
        ]
        if not eligible:
            return None
        lowest = min(job.priority for job in eligible)
        return max((job for job in eligible if job.priority == lowest), key=lambda job: (-job.step, job.id))


def make_room(
    session: Session, patience_seconds: float, max_running_jobs: int = NO_LIMIT, max_gpu_hours: int = NO_LIMIT
) -> int:
    """Preempt one running job for each place that waiting jobs of a higher priority need; return how many.

    A job over several workers needs as many places, on workers of one kind that are enough for it. For a project at
    its limit of running jobs, only its own jobs are preempted.
    """
    values = {
        "patience_seconds": patience_seconds,
        "max_running_jobs": max_running_jobs,
        "max_gpu_hours": max_gpu_hours,
    }
    waiting = session.execute(_WAITING, values).all()
    if not waiting:
        return 0
    jobs = session.scalars(
        select(Job).where(Job.status == JobStatus.running).order_by(Job.id).with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).all()
    workers = defaultdict[str, list[str]](list)
    for slot in occupied_slots(session):
        workers[slot.job_id].append(slot.worker)
    stopping = [job for job in jobs if job.stop_request is not None]
    running = _RunningJobs(
        [job for job in jobs if job.stop_request is None],
        workers,
        [worker for job in stopping for worker in workers[job.id]],
    )
    present = {one.worker.name: one for one in training_workers(session, REPORTED_SECONDS)}
    room = {row.project_id: row.room for row in waiting}
    return sum(_preempt_for(session, row, running, present, room) for row in waiting)


def _preempt_for(
    session: Session,
    waiting: Row[Any],
    running: _RunningJobs,
    present: Mapping[str, WorkerPresence],
    room: dict[str, int],
) -> int:
    """Find the places for one waiting job; return how many running jobs had to be preempted for it.

    None is preempted unless all places can be found.
    """
    has_room = room[waiting.project_id] > 0
    for kind, needed in _places(session, waiting, present.values()):
        found = running.preempt_for(waiting, needed, partial(_suits, waiting, kind, present), has_room=has_room)
        if found is None:
            continue
        victims, takes_leaving = found
        if takes_leaving or any(victim.project_id != waiting.project_id for victim in victims):
            room[waiting.project_id] -= 1
        for victim in victims:
            _preempt(session, victim, waiting)
        return len(victims)
    return 0


def _places(session: Session, waiting: Row[Any], present: Iterable[WorkerPresence]) -> Iterator[tuple[str | None, int]]:
    """Yield the kinds of workers that could train a job, and the number of further slots that it needs of each.

    A job for one worker may run on any kind: None.
    """
    if waiting.nodes == 1:
        yield None, 1
        return
    fitting = [worker for worker in present if worker.hardware.gpus >= waiting.gpus]
    for kind, slots in slots_by_kind(fitting).most_common():
        if slots >= waiting.nodes:
            yield kind, max(0, waiting.nodes - idle_slots(session, waiting.gpus, kind))


def _suits(waiting: Row[Any], kind: str | None, present: Mapping[str, WorkerPresence], worker: str) -> bool:
    """Return whether a slot of the worker is a place for the waiting job."""
    if kind is None and waiting.gpus == 1:
        return True
    found = present.get(worker)
    return found is not None and found.hardware.gpus >= waiting.gpus and kind in (None, found.worker.kind)


def _preempt(session: Session, victim: Job, waiting: Row[Any]) -> None:
    victim.stop_request = StopRequest.preempt
    session.flush()
    # Another project's job must not be named.
    waiting_job = f"Job {waiting.id}" if victim.project_id == waiting.project_id else "A job of another project"
    append(
        session,
        victim.id,
        Event(
            f"{waiting_job} with priority {waiting.priority} preempts this job with priority {victim.priority}; it "
            "saves a checkpoint first"
        ),
    )
