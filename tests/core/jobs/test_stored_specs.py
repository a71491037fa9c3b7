"""Jobs that a newer version created while an installation is upgraded: old servers go on with all other jobs."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.core.db import Database
from app.core.files.tables import File, FileStatus
from app.core.files.validation import validate_file
from app.core.jobs import leases, lifecycle, lint_queue, stored_specs
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.stored_specs import NewerJob
from app.core.jobs.tables import Job
from tests.setup_jobs import make_file, make_job, make_project, supervised
from tests.tiny_model import write_rows

NEWER: dict[str, Any] = {"newer": 1}


def store_as_newer(session: Any, job_id: str) -> None:
    session.execute(update(Job).where(Job.id == job_id).values(spec=Job.spec.concat(NEWER)))


def test_worker_leaves_a_newer_job_to_others(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        newer, known = make_job(session, project).id, make_job(session, project).id
        store_as_newer(session, newer)
    with database.transaction() as session:
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        assert claim.job_id == known
        assert leases.claim(session, "w", 60) is None
    with database.transaction() as session:
        job = session.get_one(Job, newer)
        assert (job.status, job.attempt, job.lease_owner) == (JobStatus.queued, 0, None)


def test_sweep_admits_the_other_jobs(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project, status=FileStatus.uploaded)
        newer, known = (make_job(session, project, file=file).id for _ in range(2))
        store_as_newer(session, newer)
        session.execute(update(File).values(status=FileStatus.processed))
    with database.transaction() as session:
        assert lifecycle.admit_validated(session) == 1
        assert session.get_one(Job, known).status == JobStatus.queued
        assert session.get_one(Job, newer).status == JobStatus.validating_files


def test_lint_of_a_newer_job_waits(database: Database, tmp_path: Path) -> None:
    report = validate_file(write_rows(tmp_path / "rows.jsonl", 4)).model_dump(mode="json")
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project, report=report)
        newer, known = (make_job(session, project, file=file).id for _ in range(2))
        session.execute(update(Job).values(lint_due=True))
        store_as_newer(session, newer)
    with database.transaction() as session:
        claim = lint_queue.claim_next(session)
        assert claim is not None
        assert claim.job_id == known
        assert lint_queue.claim_next(session) is None


def test_newer_job_is_shown_without_its_unknown_fields() -> None:
    known = supervised(n_epochs=2)
    stored = known.model_dump(mode="json", by_alias=True)
    nested = stored | NEWER | {"settings": stored["settings"] | NEWER}
    assert stored_specs.read_to_show("ftjob-1", nested) == known
    with pytest.raises(NewerJob, match="job ftjob-1"):
        stored_specs.read("ftjob-1", nested)
    for read in (stored_specs.read, stored_specs.read_to_show):
        with pytest.raises(NewerJob):
            read("ftjob-1", stored | {"method": "newer"})
