"""What clients and validated files do to a job. Each function is one guarded change and its event."""

from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import InvalidRequest
from app.core.files.tables import File, FileStatus
from app.core.jobs import lint_queue
from app.core.jobs.events import Event, append
from app.core.jobs.queries import job_of_project
from app.core.jobs.state_machine import TERMINAL, JobStatus, StopRequest
from app.core.jobs.submission import check_validated, find_overlap
from app.core.jobs.tables import Job
from app.core.jobs.transitions import transition
from app.core.spec.job import JobSpec

_VALIDATING: Final = frozenset({JobStatus.validating_files})


def create(
    session: Session,
    *,
    project_id: str,
    spec: JobSpec,
    training_file: str,
    validation_file: str | None,
    priority: int = 0,
    has_signal: bool = False,
) -> Job:
    """A new job, queued at once when its files are validated already and no lint has to decide on it.

    `has_signal` says that its groups were seen to teach something. Ring the workers after the commit: training if it
    is queued, validation if not, and linting if that is due. Call `submission.check_file` before.
    """
    job = Job(
        id=ids.job_id(),
        project_id=project_id,
        spec=spec.model_dump(mode="json", by_alias=True),
        training_file=training_file,
        validation_file=validation_file,
        priority=priority,
        lint_due=lint_queue.is_due(spec),
    )
    session.add(job)
    session.flush()
    files = f"Validating training file: {training_file}"
    if validation_file is not None:
        files += f" and validation file: {validation_file}"
    append(session, job.id, Event(f"Created fine-tuning job: {job.id}"), Event(files))
    return _admit(session, job, has_signal=has_signal)


def admit_validated(session: Session) -> int:
    """Queues or fails the jobs whose files are validated, and linted where that decides; returns how many moved."""
    waiting = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.validating_files)
        .order_by(Job.created_at)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).all()
    return sum(_admit(session, job).status != JobStatus.validating_files for job in waiting)


def _admit(session: Session, job: Job, *, has_signal: bool = False) -> Job:
    """Moves a job whose row the caller holds on from `validating_files`, if its files are ready."""
    spec = JobSpec.model_validate(job.spec)
    wanted = {"training_file": job.training_file, "validation_file": job.validation_file}
    named = {param: file_id for param, file_id in wanted.items() if file_id is not None}
    # FOR SHARE: a validation that ends meanwhile waits for this transaction and then admits the job itself.
    found = session.scalars(
        select(File)
        .where(File.id.in_(named.values()), File.project_id == job.project_id)
        .order_by(File.id)
        .with_for_update(read=True),
        execution_options={"populate_existing": True},
    )
    files = {file.id: file for file in found}
    try:
        for param, file_id in named.items():
            if file_id not in files:
                raise InvalidRequest(f"The file '{file_id}' is gone.", param=param, code="file_not_found")
            check_validated(spec, files[file_id], param)
        lint_queue.check(job)
    except InvalidRequest as error:
        event = Event(f"The job failed: {error.message}", level="error", data={"code": error.code})
        details = {"code": error.code, "message": error.message, "param": error.param}
        return transition(session, job.id, _VALIDATING, JobStatus.failed, event, error=details)
    if any(file.status != FileStatus.processed for file in files.values()):
        return job
    if job.lint_due and lint_queue.decides(spec) and not has_signal:
        return job
    event = Event("Files validated, moving job to queued state")
    if overlap := find_overlap(session, job.training_file, job.validation_file):
        append(session, job.id, Event(str(overlap), level="warn", data={"code": "held_out_overlap"}))
    return transition(session, job.id, _VALIDATING, JobStatus.queued, event, eligible_at=func.now())


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancels a job: at once, or within seconds if it is running (its runner reads the request).

    Raises `NotFound`, and `InvalidRequest` for a finished job.
    """
    job = _live(session, project_id, job_id, "cancel")
    if job.status == JobStatus.running:
        return _request(session, job, StopRequest.cancel, "Cancelling the job")
    return transition(session, job.id, {JobStatus(job.status)}, JobStatus.cancelled, Event("The job was cancelled"))


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Pauses a job: at once, or after a checkpoint if it is running; asking again changes nothing.

    Raises `NotFound`, and `InvalidRequest` for a job that is finished or still validates its files.
    """
    job = _live(session, project_id, job_id, "pause")
    if job.status == JobStatus.paused:
        return job
    if job.status == JobStatus.running:
        return _request(session, job, StopRequest.pause, "Pausing the job after a checkpoint")
    if job.status == JobStatus.validating_files:
        raise InvalidRequest(f"Job {job_id} is still validating its files; pause it once it is queued.")
    return transition(session, job.id, {JobStatus.queued}, JobStatus.paused, Event("The job is paused"))


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Queues a paused job again; it goes on from its last checkpoint. Ring training after the commit.

    Raises `NotFound`, and `InvalidRequest` for a job that is not paused.
    """
    job = _live(session, project_id, job_id, "resume")
    if job.status != JobStatus.paused:
        raise InvalidRequest(f"Job {job_id} is {job.status}, not paused; only a paused job can be resumed.")
    event = Event("The job is queued again and goes on from its last checkpoint")
    return transition(session, job.id, {JobStatus.paused}, JobStatus.queued, event, eligible_at=func.now(), crashes=0)


def prioritise(session: Session, project_id: str, job_id: str, priority: int) -> Job:
    """Moves a job in the queue; one that runs keeps its place until a job of a higher priority needs it.

    Raises `NotFound`, and `InvalidRequest` for a finished job.
    """
    job = _live(session, project_id, job_id, "put first or last")
    if job.priority != priority:
        append(session, job.id, Event(f"The job's priority is {priority} now; it was {job.priority}"))
        job.priority = priority
        session.flush()
    return job


def _live(session: Session, project_id: str, job_id: str, verb: str) -> Job:
    job = job_of_project(session, project_id, job_id, lock=True)
    if job.status in TERMINAL:
        raise InvalidRequest(f"Job {job_id} has already {_ENDED[JobStatus(job.status)]}; there is nothing to {verb}.")
    return job


_ENDED: Final = {
    JobStatus.succeeded: "succeeded",
    JobStatus.failed: "failed",
    JobStatus.cancelled: "been cancelled",
}


def _request(session: Session, job: Job, request: StopRequest, message: str) -> Job:
    """Notes a stop request on a running job, whose row the caller holds; cancel wins over pause."""
    if job.stop_request in (request, StopRequest.cancel):
        return job
    job.stop_request = request
    session.flush()
    append(session, job.id, Event(message))
    return job
