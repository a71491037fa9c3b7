"""Random histories of clients, workers and sweeps over a real database: no invariant ever breaks.

A stop request of a client may come between any two transitions.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, LostLease
from app.core.jobs import invariants, leases, lifecycle, outcomes, preemption
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import TERMINAL, JobStatus, StopRequest
from app.core.jobs.tables import Job
from app.core.spec.reports import Finished
from tests.properties import examples
from tests.setup_jobs import make_job, make_project, metrics_csv

STEPS: Final = 20
FINISHED: Final = Finished(step=0, path="/x", trained_tokens=9, published_step=0, reason="the last step")
HEARTBEAT: Final = "heartbeat"
ENDINGS: Final[dict[str, Callable[[Session, Claim], object]]] = {
    "fail": lambda s, claim: outcomes.fail(s, claim, "bad_data", "message"),
    "crash": lambda s, claim: outcomes.crash(s, claim, "reason", ""),
    "drain": outcomes.drain,
    "wait": lambda s, claim: outcomes.wait_for_dependency(s, claim, "reason"),
    "wait on a row": lambda s, claim: outcomes.wait_for_dependency(s, claim, "reason", (3,)),
    "cancel": lambda s, claim: outcomes.stop(s, claim, StopRequest.cancel),
    "pause": lambda s, claim: outcomes.stop(s, claim, StopRequest.pause),
    "preempt": lambda s, claim: outcomes.stop(s, claim, StopRequest.preempt),
    "break": lambda s, claim: outcomes.gpu_fault(s, claim, "reason", ""),
    "succeed": lambda s, claim: outcomes.succeed(s, claim, FINISHED, "blob", "tiny", metrics_csv()),
    HEARTBEAT: lambda s, claim: leases.heartbeat(s, claim, 60),
}
"""What a worker writes for a claim: fine while it owns the job, refused otherwise."""
OUTRANKING: Final = {
    StopRequest.cancel: {"fail": JobStatus.failed},
    StopRequest.pause: {"fail": JobStatus.failed, "cancel": JobStatus.cancelled, "succeed": JobStatus.succeeded},
}
"""Endings that prevail over a client's request. After any other ending the job has stopped as requested."""
STOPPED: Final = {StopRequest.cancel: JobStatus.cancelled, StopRequest.pause: JobStatus.paused}

# A copy of the first job as it was created, twenty times as fast as creating one.
_SUBMIT: Final = text(
    """
    INSERT INTO jobs (id, project_id, status, spec, training_file, priority, epoch, crashes, step)
    SELECT :id, project_id, 'queued', spec, training_file, :priority, 0, 0, 0 FROM jobs WHERE id = :first
    """
)

STOPS: Final = st.sampled_from([None, lifecycle.cancel, lifecycle.pause])
"""What a client does just before a transition."""
PICKS: Final = st.integers(0, 20)


class JobMachine(RuleBasedStateMachine):
    """One transaction that is never committed: each example begins with an empty database."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.session = Session(database.engine)
        # Names are unique: two processes with open transactions would wait for each other.
        self.project = make_project(self.session, f"project-{os.getpid()}")
        self.claims: list[Claim] = []
        self.ended: dict[str, str] = {}
        self.first = make_job(self.session, self.project).id

    def teardown(self) -> None:
        self.session.close()

    def _status(self, job_id: str) -> str | None:
        return self.session.scalar(select(Job.status).where(Job.id == job_id))

    def _pick(self, pick: int, *statuses: JobStatus) -> str | None:
        every = select(Job.id).order_by(Job.id)
        found = self.session.scalars(every.where(Job.status.in_(statuses)) if statuses else every).all()
        return found[pick % len(found)] if found else None

    def _change(self, change: lifecycle.Change | None, job_id: str | None) -> None:
        if change is not None and job_id is not None:
            with suppress(InvalidRequest):
                change(self.session, Actor(self.project), job_id)

    @rule(priority=st.integers(-1, 1))
    def submit(self, priority: int) -> None:
        self.session.execute(_SUBMIT, {"id": ids.job_id(), "first": self.first, "priority": priority})

    @rule(stop=STOPS, pick=PICKS)
    def preempt_for_room(self, stop: lifecycle.Change | None, pick: int) -> None:
        self._change(stop, self._pick(pick, JobStatus.running))
        preemption.make_room(self.session, 0)

    @rule(stop=STOPS, pick=PICKS)
    def claim(self, stop: lifecycle.Change | None, pick: int) -> None:
        self._change(stop, self._pick(pick, JobStatus.queued))
        self.session.execute(update(Job).where(Job.status == "queued").values(eligible_at=func.now()))
        claimed = leases.claim(self.session, "w", 60)
        self.claims += [claimed] if claimed else []

    @rule(change=st.sampled_from([lifecycle.cancel, lifecycle.pause, lifecycle.resume]), pick=PICKS)
    def ask(self, change: lifecycle.Change, pick: int) -> None:
        self._change(change, self._pick(pick))

    @rule(name=st.sampled_from(sorted(ENDINGS)), stop=STOPS, pick=PICKS)
    def end(self, name: str, stop: lifecycle.Change | None, pick: int) -> None:
        """A worker ends an attempt, perhaps one that has lost its lease. It does not know of `stop` yet."""
        if not self.claims:
            return
        claim = self.claims[pick % len(self.claims)]
        owned = Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == JobStatus.running
        owns = self.session.scalar(select(Job.id).where(*owned)) is not None
        if owns:
            self._change(stop, claim.job_id)
        requested = self.session.scalar(select(Job.stop_request).where(*owned))
        lost = False
        try:
            ENDINGS[name](self.session, claim)
        except LostLease:
            lost = True
        assert lost is not owns
        if requested in STOPPED and name != HEARTBEAT:
            request = StopRequest(requested)
            assert self._status(claim.job_id) == OUTRANKING[request].get(name, STOPPED[request])

    @rule(stop=STOPS, pick=PICKS)
    def leases_run_out(self, stop: lifecycle.Change | None, pick: int) -> None:
        self._change(stop, self._pick(pick, JobStatus.running))
        requests = self.session.execute(select(Job.id, Job.stop_request).where(Job.status == JobStatus.running)).all()
        self.session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 s' WHERE status = 'running'"))
        leases.expire(self.session)
        for job_id, request in requests:
            expected = {STOPPED[StopRequest(request)]} if request in STOPPED else {JobStatus.queued, JobStatus.failed}
            assert self._status(job_id) in expected

    @rule(stop=STOPS, pick=PICKS)
    def another_worker_takes_over(self, stop: lifecycle.Change | None, pick: int) -> None:
        self.leases_run_out(stop, pick)
        self.claim(None, pick)

    @invariant()
    def history_is_sound(self) -> None:
        assert invariants.breaches(self.session, lambda _key: True) == []
        statuses = {row.id: row.status for row in self.session.execute(select(Job.id, Job.status))}
        assert {job_id: statuses[job_id] for job_id in self.ended} == self.ended
        self.ended = {job_id: status for job_id, status in statuses.items() if status in TERMINAL}


def run_histories(database: Database, count: int, *, derandomize: bool) -> None:
    """Run histories of up to `STEPS` transitions. Raises `AssertionError` with the shortest bad one."""
    run_state_machine_as_test(
        lambda: JobMachine(database),  # type: ignore[arg-type] # any factory works
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.hypothesis
@pytest.mark.slow
def test_no_history_breaks_an_invariant(database: Database) -> None:
    run_histories(database, examples(40), derandomize=settings().derandomize)
