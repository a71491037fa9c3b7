"""The phase of a running job, and the time that workers have run a job."""

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.jobs import changes, leases, lifecycle, outcomes, progress
from app.core.jobs.journal import Journal, JournalEntry, Writable
from app.core.jobs.leases import Claim
from app.core.jobs.progress import Phase
from app.core.jobs.tables import Job, JobAttempt
from app.core.spec.reports import Evaluated, Metrics, Started
from tests.setup_jobs import make_file, make_job, make_project, supervised

STARTED = Started(
    total_steps=2, resumed_from_step=0, batch_size=1, n_epochs=1, learning_rate=1.0, learning_rate_multiplier=1.0
)


def claim_job(session: Session, *, held_out: bool) -> Claim:
    project = make_project(session)
    validation = make_file(session, project).id if held_out else None
    lifecycle.create(
        session,
        Actor(project),
        spec=supervised(),
        training_file=make_file(session, project).id,
        validation_file=validation,
    )
    claim = leases.claim(session, "w", 60)
    assert claim is not None
    return claim


@pytest.mark.parametrize("held_out", [False, True])
def test_phases_of_a_job(database: Database, held_out: bool) -> None:
    """Each report that changes the phase also changes the snapshot that streams wait for."""
    with database.transaction() as session:
        claim = claim_job(session, held_out=held_out)
    journal = Journal(database, claim)

    def phase() -> tuple[Phase | None, changes.JobSnapshot]:
        with database.transaction() as session:
            job = session.get_one(Job, claim.job_id)
            running = progress.run_progress(session, [job]).get(job.id)
            (snapshot,) = changes.snapshots(session, [job.id])
            return (None if running is None else running.phase), snapshot

    seen = [phase()]
    # First the rows that select the adapter, then those that report.
    evaluated = [Evaluated(step=0, values={"eval/loss": 2.0}, is_result=it) for it in (False, True)] if held_out else []
    reports: list[Writable] = [STARTED, *evaluated, Metrics(step=1, values={}), Metrics(step=2, values={})]
    for report in reports:
        journal.record([JournalEntry(report)])
        seen.append(phase())
    before = [Phase.evaluating_base_model] * 2 if held_out else []
    expected = [Phase.loading_model, *before, Phase.training, Phase.training, Phase.saving_model]
    assert [phase for phase, _ in seen] == expected
    states = {(s.step, s.is_training, s.is_evaluated): phase for phase, s in seen}
    assert list(states.values()) == [Phase.loading_model, *before[:1], *expected[-3:]]
    with database.transaction() as session:
        outcomes.drain(session, claim)
    assert phase()[0] is None
    with database.transaction() as session:
        again = leases.claim(session, "w", 60)
    assert again is not None
    assert phase()[0] is Phase.loading_model


def test_run_seconds_exclude_the_queue(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        assert progress.run_seconds(session, [job]) == {}
        first = leases.claim(session, "w", 60)
        assert first is not None
        outcomes.drain(session, first)
        assert leases.claim(session, "w", 60) is not None
        ago = [func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds) for seconds in (1000, 993, 5)]
        session.execute(update(Job).values(created_at=func.now() - func.make_interval(0, 0, 1)))
        attempt = update(JobAttempt).where(JobAttempt.job_id == job.id)
        session.execute(attempt.where(JobAttempt.attempt == 1).values(started_at=ago[0], ended_at=ago[1]))
        session.execute(attempt.where(JobAttempt.attempt == 2).values(started_at=ago[2]))
        session.refresh(job)
        assert progress.run_seconds(session, [job]) == {job.id: pytest.approx(7 + 5)}
