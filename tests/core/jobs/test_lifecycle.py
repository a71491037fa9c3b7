"""Changes of a job by clients and by validated files."""

import re
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, LostLease, NotFound
from app.core.files.tables import FileStatus
from app.core.jobs import leases, lifecycle, outcomes
from app.core.jobs.events import Event
from app.core.jobs.state_machine import TRANSITIONS, JobStatus, StopRequest
from app.core.jobs.tables import Job, JobEvent
from app.core.jobs.transitions import transition
from tests.setup_jobs import make_file, make_job, make_project, supervised

DOCS = Path(__file__).parents[3] / "docs" / "jobs.md"


def messages(session: Session, job_id: str) -> list[str]:
    rows = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)).all()
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    return [row.message for row in rows]


def test_documented_transitions() -> None:
    shown = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == {(str(source), str(target)) for source, targets in TRANSITIONS.items() for target in targets}


def test_job_with_validated_files_is_queued(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        assert job.status == JobStatus.queued
        assert messages(session, job.id) == [
            f"Created fine-tuning job: {job.id}",
            f"Validating training file: {job.training_file}",
            "Files validated, moving job to queued state",
        ]


def test_job_waits_for_validation(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project, status=FileStatus.uploaded)
        job = make_job(session, project, file=file)
        assert job.status == JobStatus.validating_files
        assert lifecycle.admit_validated(session) == 0
        file.status = FileStatus.processed
        session.flush()
        assert lifecycle.admit_validated(session) == 1
        session.refresh(job)
        assert job.status == JobStatus.queued


def test_job_with_invalid_file_fails(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project, status=FileStatus.uploaded)
        job = make_job(session, project, file=file)
        file.status, file.status_details = FileStatus.error, "line 17: not JSON"
        session.flush()
        assert lifecycle.admit_validated(session) == 1
        session.refresh(job)
        assert job.status == JobStatus.failed
        assert job.finished_at is not None
        assert job.error is not None
        assert job.error["code"] == "invalid_file"
        assert job.error["param"] == "training_file"
        assert "line 17: not JSON" in job.error["message"]


@pytest.mark.parametrize("status", [JobStatus.validating_files, JobStatus.queued, JobStatus.paused])
def test_cancel_queued_job(database: Database, status: JobStatus) -> None:
    with database.transaction() as session:
        project = make_project(session)
        waits = status is JobStatus.validating_files
        file = make_file(session, project, status=FileStatus.uploaded if waits else FileStatus.processed)
        job = make_job(session, project, file=file)
        if status is JobStatus.paused:
            lifecycle.pause(session, Actor(project), job.id)
        cancelled = lifecycle.cancel(session, Actor(project), job.id)
        assert cancelled.status == JobStatus.cancelled
        assert cancelled.finished_at is not None


def test_cancel_running_job_overrides_pause(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        assert lifecycle.pause(session, Actor(project), job.id).status == JobStatus.running
        assert leases.heartbeat(session, claim, 60) is StopRequest.pause
        lifecycle.cancel(session, Actor(project), job.id)
        lifecycle.pause(session, Actor(project), job.id)
        assert leases.stop_requested(session, claim) is StopRequest.cancel


def test_paused_job_is_claimed_after_resume(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        lifecycle.pause(session, Actor(project), job.id)
        assert lifecycle.pause(session, Actor(project), job.id).status == JobStatus.paused
        assert leases.claim(session, "w", 60) is None
        assert lifecycle.resume(session, Actor(project), job.id).status == JobStatus.queued
        assert leases.claim(session, "w", 60) is not None


def test_terminal_job_never_changes(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        lifecycle.cancel(session, Actor(project), job.id)
        for change in (lifecycle.cancel, lifecycle.pause, lifecycle.resume):
            with pytest.raises(InvalidRequest, match="has already been cancelled"):
                change(session, Actor(project), job.id)
        assert messages(session, job.id)[-1] == "The job was cancelled"


def test_pause_and_resume_need_fitting_status(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        waiting = make_job(session, project, file=make_file(session, project, status=FileStatus.uploaded))
        with pytest.raises(InvalidRequest, match="still validating"):
            lifecycle.pause(session, Actor(project), waiting.id)
        with pytest.raises(InvalidRequest, match="Only a paused job"):
            lifecycle.resume(session, Actor(project), waiting.id)


def test_change_job_of_other_project(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        other = make_project(session, "other")
        with pytest.raises(NotFound) as caught:
            lifecycle.cancel(session, Actor(other), job.id)
        assert caught.value.param is None


def test_unknown_transition_raises(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        with pytest.raises(ValueError, match="no move from paused to succeeded"):
            transition(session, job.id, {JobStatus.paused}, JobStatus.succeeded, Event("x"))
        with pytest.raises(LostLease):
            transition(session, job.id, {JobStatus.paused}, JobStatus.queued, Event("x"))


@pytest.mark.parametrize(
    "values", [{"status": "running"}, {"status": "failed"}, {"lease_owner": "w"}, {"status": "resting"}]
)
def test_constraints_reject_impossible_rows(database: Database, values: dict[str, str]) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        with pytest.raises(IntegrityError):
            session.execute(update(Job).where(Job.id == job.id).values(**values))
        session.rollback()


def test_spec_round_trip(database: Database) -> None:
    spec = supervised(max_steps=3)
    with database.transaction() as session:
        make_job(session, make_project(session), spec)
    with database.transaction() as session:
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        assert claim.spec == spec
        outcomes.stop(session, claim, StopRequest.cancel)
