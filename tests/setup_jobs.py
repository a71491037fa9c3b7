"""Inserts projects, files and jobs directly into a database, without the API."""

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.accounts.tables import Project
from app.core.files.tables import File, FileStatus
from app.core.files.uploads import ReceivedFile
from app.core.files.validation import validate_file
from app.core.jobs import lifecycle
from app.core.jobs.tables import Job
from app.core.spec.job import Hyperparameters, ImitationMethod, JobSpec, MethodType
from app.core.storage.blobs import BlobStore
from tests.tiny_model import write_rows


def make_project(session: Session, name: str = "default") -> str:
    """Insert a project; return its id."""
    project = Project(id=ids.project_id(), name=name)
    session.add(project)
    session.flush()
    return project.id


def supervised(**hyperparameters: int) -> JobSpec:
    """Return the spec of a supervised job on the base model `tiny`."""
    settings = ImitationMethod(hyperparameters=Hyperparameters.model_validate(hyperparameters))
    return JobSpec(model="tiny", method=MethodType.supervised, settings=settings, seed=7)


def make_file(
    session: Session,
    project_id: str,
    *,
    status: FileStatus = FileStatus.processed,
    report: dict[str, object] | None = None,
    purpose: str = "fine-tune",
) -> File:
    """Insert a file's row, without a blob."""
    file_id = ids.file_id()
    file = File(
        id=file_id,
        project_id=project_id,
        filename="rows.jsonl",
        purpose=purpose,
        bytes=1,
        sha256="0" * 64,
        blob=f"files/{file_id}",
        status=status,
        report=report,
    )
    session.add(file)
    session.flush()
    return file


def metrics_csv() -> ReceivedFile:
    """Return the result file that a runner stores before it ends a job, without a blob."""
    file_id = ids.file_id()
    return ReceivedFile(file_id, f"jobs/x/{file_id}", 1, "0" * 64)


def stored_file(session: Session, store: BlobStore, project_id: str, scratch: Path, rows: int = 8) -> File:
    """Insert a validated file of addition rows, with its blob."""
    path = write_rows(scratch / f"{ids.file_id()}.jsonl", rows)
    report = validate_file(path)
    file = make_file(session, project_id, report=report.model_dump(mode="json"))
    stored = store.write(file.blob, [path.read_bytes()])
    file.bytes, file.sha256 = stored.bytes, stored.sha256
    return file


def make_queue(session: Session, job: Job, count: int) -> None:
    """Insert `count` queued copies of `job`, each a second older than the previous one."""
    columns = "project_id, status, spec, training_file, priority, epoch, crashes, step"
    statement = text(
        f"INSERT INTO jobs (id, {columns}, created_at, eligible_at) SELECT 'ftjob-' || n, {columns}, "  # noqa: S608
        "created_at - n * interval '1 s', eligible_at - n * interval '1 s' "
        "FROM jobs, generate_series(1, :count) AS n WHERE id = :id"
    )
    session.execute(statement, {"id": job.id, "count": count})


def make_job(session: Session, project_id: str, spec: JobSpec | None = None, file: File | None = None) -> Job:
    """Insert a queued job."""
    training = file or make_file(session, project_id)
    return lifecycle.create(
        session,
        Actor(project_id),
        spec=spec or supervised(),
        training_file=training.id,
        validation_file=None,
    )
