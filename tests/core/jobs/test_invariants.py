"""The invariant checker finds each planted breach, and none in a correct history."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.jobs import invariants, leases, outcomes
from tests.setup_jobs import make_job, make_project


def everything_is_stored(_key: str) -> bool:
    return True


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """One queued job after a drained attempt, and one that runs; never committed."""
    with Session(database.engine) as session:
        project = make_project(session)
        make_job(session, project)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        outcomes.drain(session, claim)
        make_job(session, project)
        assert leases.claim(session, "w", 60) is not None
        yield session


def test_correct_history_has_no_breach(session: Session) -> None:
    assert invariants.breaches(session, everything_is_stored) == []


@pytest.mark.parametrize(
    ("invariant", "damage"),
    [
        ("attempts are 1, 2, 3, ... without a gap", "UPDATE jobs SET epoch = epoch + 1 WHERE status = 'queued'"),
        (
            "only the newest attempt of a running job is open",
            "UPDATE job_attempts SET outcome = NULL WHERE outcome = 'drained'; "
            "UPDATE jobs SET status = 'paused', lease_owner = NULL, lease_until = NULL",
        ),
        (
            "a job is leased exactly while it runs",
            "ALTER TABLE jobs DROP CONSTRAINT ck_jobs_lease_iff_running; UPDATE jobs SET status = 'queued'",
        ),
        (
            "a further worker belongs to the newest attempt of a running job",
            "INSERT INTO attempt_members (job_id, epoch, node, worker, slot, lease_until) "
            "SELECT job_id, epoch, 1, 'w', 's', now() FROM job_attempts WHERE outcome = 'drained'",
        ),
        (
            "nothing happens after the end of a job",
            "UPDATE jobs SET status = 'cancelled', lease_owner = NULL, lease_until = NULL, "
            "finished_at = now() - interval '1 hour'",
        ),
        (
            "a job that a client stopped does not run on",
            "INSERT INTO audit_log (id, action, object_id, project_id, actor_project_id) "
            "SELECT 'audit_' || id, 'job.cancel', id, project_id, project_id FROM jobs WHERE status = 'queued'",
        ),
        (
            "a job that a client stopped does not run on",
            "INSERT INTO audit_log (id, action, object_id, project_id, actor_project_id) "
            "SELECT 'audit_' || id, 'job.pause', id, project_id, project_id FROM jobs WHERE status = 'running'",
        ),
        ("events are numbered 1, 2, 3, ... without a gap", "DELETE FROM job_events WHERE seq = 2"),
        ("every step has its metrics", "UPDATE jobs SET step = 1"),
        (
            "a job starts after its control has ended",
            "UPDATE jobs SET control_of = (SELECT id FROM jobs WHERE status = 'running') WHERE status = 'queued'",
        ),
        (
            "a job that succeeded is compared with its control",
            """UPDATE jobs SET spec = spec || '{"control": "dft"}', status = 'succeeded', fine_tuned_model = 'm',
               finished_at = now(), lease_owner = NULL, lease_until = NULL WHERE status = 'running'""",
        ),
    ],
)
def test_planted_breach_is_found(session: Session, invariant: str, damage: str) -> None:
    session.flush()
    for statement in damage.split("; "):
        session.execute(text(statement))
    assert invariant in {breach.invariant for breach in invariants.breaches(session, everything_is_stored)}


def test_missing_blob_is_found(session: Session) -> None:
    found = invariants.breaches(session, lambda _key: False)
    assert {breach.invariant for breach in found} == {"a file is stored"}
