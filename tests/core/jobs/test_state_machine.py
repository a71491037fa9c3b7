"""Random histories of clients, workers and sweeps over a real database: no invariant ever breaks."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, LostLease
from app.core.jobs import invariants, leases, lifecycle, outcomes, preemption
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import TERMINAL, StopRequest
from app.core.jobs.tables import Job
from app.core.spec.reports import Finished
from tests.properties import examples
from tests.setup_jobs import make_job, make_project, metrics_csv

FINISHED = Finished(step=0, path="/x", trained_tokens=9, published_step=0, reason="the last step")
ENDINGS = {
    "fail": lambda s, claim: outcomes.fail(s, claim, "bad_data", "message"),
    "crash": lambda s, claim: outcomes.crash(s, claim, "reason", ""),
    "drain": outcomes.drain,
    "wait": lambda s, claim: outcomes.wait_for_dependency(s, claim, "reason"),
    "cancel": lambda s, claim: outcomes.stop(s, claim, StopRequest.cancel),
    "pause": lambda s, claim: outcomes.stop(s, claim, StopRequest.pause),
    "preempt": lambda s, claim: outcomes.stop(s, claim, StopRequest.preempt),
    "break": lambda s, claim: outcomes.gpu_fault(s, claim, "reason", ""),
    "succeed": lambda s, claim: outcomes.succeed(s, claim, FINISHED, "blob", "tiny", metrics_csv()),
    "beat": lambda s, claim: leases.heartbeat(s, claim, 60),
}
"""What a worker writes for a claim: fine while it owns the job, refused otherwise."""


class JobMachine(RuleBasedStateMachine):
    """One transaction that is never committed: each example begins with an empty database."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.session = Session(database.engine)
        self.project = make_project(self.session)
        self.claims: list[Claim] = []
        self.ended: dict[str, str] = {}
        make_job(self.session, self.project)

    def teardown(self) -> None:
        self.session.close()

    def _jobs(self) -> list[Job]:
        self.session.flush()
        return list(self.session.scalars(select(Job).order_by(Job.id), execution_options={"populate_existing": True}))

    @rule(priority=st.integers(-1, 1))
    def submit(self, priority: int) -> None:
        make_job(self.session, self.project).priority = priority

    @rule()
    def preempt_for_room(self) -> None:
        preemption.make_room(self.session, 0)

    @rule()
    def claim(self) -> None:
        self.session.execute(update(Job).where(Job.status == "queued").values(eligible_at=func.now()))
        claimed = leases.claim(self.session, "w", 60)
        self.claims += [claimed] if claimed else []

    @rule(change=st.sampled_from([lifecycle.cancel, lifecycle.pause, lifecycle.resume]), pick=st.integers(0, 20))
    def ask(self, change, pick) -> None:  # type: ignore[no-untyped-def]
        if jobs := self._jobs():
            with suppress(InvalidRequest):
                change(self.session, Actor(self.project), jobs[pick % len(jobs)].id)

    @rule(name=st.sampled_from(sorted(ENDINGS)), pick=st.integers(0, 20))
    def end(self, name: str, pick: int) -> None:
        if not self.claims:
            return
        claim = self.claims[pick % len(self.claims)]
        owns = any(
            job.id == claim.job_id and job.attempt == claim.attempt and job.status == "running" for job in self._jobs()
        )
        lost = False
        try:
            ENDINGS[name](self.session, claim)  # type: ignore[no-untyped-call]
        except LostLease:
            lost = True
        assert lost is not owns

    @rule()
    def leases_run_out(self) -> None:
        self.session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 s' WHERE status = 'running'"))
        leases.expire(self.session)

    @rule()
    def another_worker_takes_over(self) -> None:
        self.leases_run_out()
        self.claim()

    @invariant()
    def history_is_sound(self) -> None:
        jobs = self._jobs()
        assert invariants.breaches(self.session, lambda _key: True) == []
        assert {job.id: job.status for job in jobs if job.id in self.ended} == self.ended
        self.ended = {job.id: job.status for job in jobs if job.status in TERMINAL}


@pytest.mark.hypothesis
@pytest.mark.slow
def test_no_history_breaks_an_invariant(database: Database) -> None:
    run_state_machine_as_test(
        lambda: JobMachine(database),  # type: ignore[arg-type] # any factory will do
        settings=settings(max_examples=examples(60), stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )
