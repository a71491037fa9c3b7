"""Changes to a job requested by a client or triggered by file validation. Each function makes one guarded change.

The change, its event and its entry in the audit log are written in the caller's transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog
from sqlalchemy import event as sql_event
from sqlalchemy import func, null, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.errors import InvalidRequest
from app.core.files.tables import File, FileStatus
from app.core.jobs import controls, leases, lint_queue, row_checks, stored_specs
from app.core.jobs.events import Event, append, keep_trace
from app.core.jobs.queries import job_of_project
from app.core.jobs.row_checks import CheckRequest
from app.core.jobs.state_machine import TERMINAL, JobStatus, StopRequest
from app.core.jobs.stored_specs import NewerJob
from app.core.jobs.submission import Notice, check_validated, find_overlaps
from app.core.jobs.tables import Job
from app.core.jobs.transitions import transition
from app.core.plurals import plural
from app.core.spec.control import control_spec
from app.core.spec.job import JobSpec
from app.core.spec.resources import Resources

log = structlog.get_logger(__name__)

Change = Callable[[Session, Actor, str], Job]
"""Changes the job with this id in the actor's project: `cancel`, `pause` or `resume`."""

_VALIDATING: Final = frozenset({JobStatus.validating_files})


def create(
    session: Session,
    actor: Actor,
    *,
    spec: JobSpec,
    training_file: str,
    validation_file: str | None,
    test_file: str | None = None,
    priority: int = 0,
    has_signal: bool = False,
    notices: Iterable[Notice] = (),
    checks: Mapping[str, CheckRequest] | None = None,
    control_checks: Mapping[str, CheckRequest] | None = None,
    control_of: str | None = None,
) -> Job:
    """Create a job in the actor's project, and its control. It is queued at once if nothing is left for its files.

    The files must be validated, their rows checked, and no lint must decide. Validate the request first
    (`submission.validate_request`). `has_signal` means that a lint has already found a group that teaches something,
    and a demonstration that passes if only those are trained, which is all that the lint of the control would ask.
    Each notice becomes an event. `checks` are those of `row_checks.requests_of`, `control_checks` those of the control.
    `control_of` is the job whose control this one is. After the commit, notify the workers: training if the job is
    queued, otherwise validation; and linting if `job.lint_due`.
    """
    job = Job(
        id=ids.job_id(),
        project_id=actor.project_id,
        spec=spec.model_dump(mode="json", by_alias=True),
        training_file=training_file,
        validation_file=validation_file,
        test_file=test_file,
        priority=priority,
        control_of=control_of,
        gpus=spec.resources.least_gpus,
        nodes=spec.resources.nodes,
        lint_due=lint_queue.is_due(spec),
    )
    if control_of is not None:  # listed and started before its job, which has the same time otherwise
        job.created_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 0.001)
    if checks:
        job.row_checks = {param: check.key for param, check in checks.items()}
    session.add(job)
    session.flush()
    for param, check in (checks or {}).items():
        row_checks.store(session, getattr(job, param), check, None)
    files = f"Validating training file: {training_file}"
    if validation_file is not None:
        files += f" and validation file: {validation_file}"
    if test_file is not None:
        files += f" and test file: {test_file}"
    warnings = (Event(item.message, "warn", data={"code": item.code, "param": item.param}) for item in notices)
    created = [Event(f"Created fine-tuning job: {job.id}"), Event(files)]
    if control_of is not None:
        created.append(Event(f"This job is the control of {control_of}, which starts when this job has ended"))
    append(session, job.id, *created, *warnings)
    keep_trace(session, job.id)
    job = _admit(session, job, has_signal=has_signal)
    after = audit.snapshot(job, "status", "training_file", "validation_file", "test_file")
    after |= {name: job.spec.get(name) for name in ("model", "method")}
    audit.record(session, actor, Action.job_create, job.id, after=after)
    sql_event.listen(session, "after_commit", lambda _: log.info("job.created", job=job.id), once=True)
    if spec.control is not None and job.status not in TERMINAL:
        control = create(
            session,
            actor,
            spec=control_spec(spec),
            training_file=training_file,
            validation_file=validation_file,
            test_file=test_file,
            priority=priority,
            has_signal=has_signal,
            checks=control_checks,
            control_of=job.id,
        )
        message = f"The control {control.id} ({spec.control}) trains first. This job starts when it has ended."
        append(session, job.id, Event(message, data={"control": control.id}))
    return job


def admit_validated(session: Session) -> int:
    """Queue or fail each job whose files are validated and whose lint, if it decides, is done; return how many moved.

    A job that another transaction has locked is skipped: that transaction admits it.
    """
    waiting = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.validating_files)
        .order_by(Job.created_at)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).all()
    return sum(_admit_if_known(session, job) for job in waiting)


def _admit_if_known(session: Session, job: Job) -> bool:
    """Return whether the job moved. A job of a newer version is left to a newer worker."""
    try:
        return _admit(session, job).status != JobStatus.validating_files
    except NewerJob as error:
        log.warning("job.not_admitted", job=job.id, reason=error.message)
        return False


def _admit(session: Session, job: Job, *, has_signal: bool = False) -> Job:
    """Move a job out of `validating_files` if its files are ready. The caller holds the job's row."""
    spec = stored_specs.read(job.id, job.spec)
    file_ids = job.files
    # FOR SHARE: a validation that ends at the same time waits for this transaction, and then admits the job itself.
    rows = session.scalars(
        select(File)
        .where(File.id.in_(file_ids.values()), File.project_id == job.project_id)
        .order_by(File.id)
        .with_for_update(read=True),
        execution_options={"populate_existing": True},
    )
    files = {file.id: file for file in rows}
    try:
        for param, file_id in file_ids.items():
            if file_id not in files:
                raise InvalidRequest(f"The file '{file_id}' was deleted.", param=param, code="file_not_found")
            check_validated(spec, files[file_id], param)
        lint_queue.check(job)
        checked = row_checks.results_of(session, job)
        if (problem := next(row_checks.problems(spec, checked), None)) is not None:
            raise problem
    except InvalidRequest as error:
        event = Event(f"The job failed: {error.message}", level="error", data={"code": error.code})
        details = {"code": error.code, "message": error.message, "param": error.param}
        if (control := controls.lock_unfinished(session, job.id)) is not None:
            _cancel(session, control, f"The control was cancelled, because {job.id} failed")
        return transition(session, job.id, _VALIDATING, JobStatus.failed, event, error=details)
    needs_lint = job.lint_due and lint_queue.decides(spec) and not has_signal
    if needs_lint or None in checked.values() or any(file.status != FileStatus.processed for file in files.values()):
        return job
    use = row_checks.shown(checked) or None
    append(session, job.id, *row_checks.events(checked))
    event = Event("Files validated, moving job to queued state", data=use)
    for overlap in find_overlaps(session, job.files):
        data = {"code": "held_out_overlap", "param": overlap.param}
        append(session, job.id, Event(str(overlap), level="warn", data=data))
    return transition(session, job.id, _VALIDATING, JobStatus.queued, event, eligible_at=func.now(), rows=use)


def cancel(session: Session, actor: Actor, job_id: str) -> Job:
    """Cancel a job and its control: at once, or within seconds if it is running (its runner polls for the request).

    A job whose control is cancelled starts without one. Raises `NotFound`, and `InvalidRequest` for a finished job.
    """
    job = _lock_unfinished(session, actor, job_id, "cancel")
    if (control := controls.lock_unfinished(session, job.id)) is not None:
        with _audited(session, actor, Action.job_cancel, control):
            _cancel(session, control, f"The control was cancelled together with {job.id}")
    with _audited(session, actor, Action.job_cancel, job):
        _cancel(session, job, "The job was cancelled")
    return job


def _cancel(session: Session, job: Job, message: str) -> None:
    if job.status == JobStatus.running:
        _request_stop(session, job, StopRequest.cancel, "Cancelling the job")
        leases.end_soon(session, job)
    else:
        transition(session, job.id, {JobStatus(job.status)}, JobStatus.cancelled, Event(message))


def pause(session: Session, actor: Actor, job_id: str) -> Job:
    """Pause a job: at once, or after a checkpoint if it is running. Pausing a paused job changes nothing.

    The control of a job is paused with it, unless it still validates its files. Raises `NotFound`, and
    `InvalidRequest` for a job that is finished or still validates its files.
    """
    job = _lock_unfinished(session, actor, job_id, "pause")
    if job.status == JobStatus.validating_files:
        raise InvalidRequest(f"Job {job_id} is still validating its files. Pause it once it is queued.")
    control = controls.lock_unfinished(session, job.id)
    for one in (control, job):
        if one is None or one.status == JobStatus.validating_files:
            continue
        with _audited(session, actor, Action.job_pause, one):
            if one.status == JobStatus.running:
                _request_stop(session, one, StopRequest.pause, "Pausing the job after a checkpoint")
            elif one.status == JobStatus.queued:
                transition(session, one.id, {JobStatus.queued}, JobStatus.paused, Event("The job is paused"))
    return job


def resume(session: Session, actor: Actor, job_id: str) -> Job:
    """Queue a paused job or its paused control again, at the old place; they resume from their checkpoints.

    Notify the training workers after the commit.

    Raises `NotFound`, and `InvalidRequest` if neither is paused.
    """
    job = _lock_unfinished(session, actor, job_id, "resume")
    control = controls.lock_unfinished(session, job.id)
    if job.status != JobStatus.paused and (control is None or control.status != JobStatus.paused):
        raise InvalidRequest(f"Job {job_id} is {job.status}, not paused. Only a paused job can be resumed.")
    if control is not None and control.stop_request == StopRequest.pause:
        raise InvalidRequest(f"The control {control.id} of job {job_id} is still pausing. Try again in some seconds.")
    for one in (job, control):
        if one is not None and one.status == JobStatus.paused:
            with _audited(session, actor, Action.job_resume, one):
                _requeue_paused(session, one)
    return job


def _requeue_paused(session: Session, job: Job) -> None:
    event = Event("The job is queued again and will resume from its last checkpoint")
    eligible_at = func.least(Job.eligible_at, func.now())  # a backoff ends, and no earlier time is given up
    transition(
        session,
        job.id,
        {JobStatus.paused},
        JobStatus.queued,
        event,
        eligible_at=eligible_at,
        crashes=0,
        waiting_since=None,
        failing_rows=null(),
        held_at=None,
    )


def prioritise(session: Session, actor: Actor, job_id: str, priority: int) -> Job:
    """Change the priority of a job and its control. A running job runs until a job of a higher one needs its place.

    Raises `NotFound`, and `InvalidRequest` for a finished job.
    """
    job = _lock_unfinished(session, actor, job_id, "change")
    for one in (job, controls.lock_unfinished(session, job.id)):
        if one is None:
            continue
        with _audited(session, actor, Action.job_update, one, "priority"):
            if one.priority != priority:
                append(session, one.id, Event(f"Priority changed from {one.priority} to {priority}"))
                one.priority, one.held_at = priority, None
                session.flush()
    return job


def resize(session: Session, actor: Actor, job_id: str, resources: Resources) -> Job:
    """Change the resources of a job that does not run, and of its control; they resume from their checkpoints.

    A control that runs keeps its workers. Check the resources first (`placement.check`). Raises `NotFound`, and
    `InvalidRequest` for a running or a finished job.
    """
    job = _lock_unfinished(session, actor, job_id, "change")
    if job.status == JobStatus.running:
        message = f"Job {job_id} is running. Pause it, change its resources, then resume it."
        raise InvalidRequest(message, param="resources")
    gpus = "" if resources.gpus == "auto" else f" with {plural(resources.gpus, 'GPU')} each"
    for one in (job, controls.lock_unfinished(session, job.id)):
        if one is None or one.status == JobStatus.running:
            continue
        with _audited(session, actor, Action.job_update, one, "gpus", "nodes"):
            one.spec = one.spec | {"resources": resources.model_dump(mode="json")}
            one.gpus, one.nodes, one.held_at = resources.least_gpus, resources.nodes, None
            session.flush()
            append(session, one.id, Event(f"The job now requests {plural(resources.nodes, 'worker')}{gpus}"))
    return job


def annotate(session: Session, actor: Actor, job_id: str, metadata: dict[str, str]) -> Job:
    """Replace a job's metadata, in every state of the job. Raises `NotFound`.

    Metadata has no effect on training, so a running job does not notice.
    """
    job = job_of_project(session, actor.project_id, job_id, lock=True)
    before, after = ({"metadata": value or None} for value in (job.spec.get("metadata"), metadata))
    job.spec = job.spec | after
    session.flush()
    audit.record(session, actor, Action.job_update, job.id, before=before, after=after)
    return job


def _lock_unfinished(session: Session, actor: Actor, job_id: str, verb: str) -> Job:
    """Return the job with its row locked: no other transaction can change it before the caller does."""
    job = job_of_project(session, actor.project_id, job_id, lock=True)
    if job.status in TERMINAL:
        raise InvalidRequest(f"Job {job_id} has already {_ENDED[JobStatus(job.status)]}; it is too late to {verb} it.")
    return job


_ENDED: Final = {
    JobStatus.succeeded: "succeeded",
    JobStatus.failed: "failed",
    JobStatus.cancelled: "been cancelled",
}


@contextmanager
def _audited(session: Session, actor: Actor, action: Action, job: Job, *columns: str) -> Iterator[None]:
    """Record what the block changes in `columns` (by default status and stop request). The caller holds the row."""
    columns = columns or ("status", "stop_request")
    before = audit.snapshot(job, *columns)
    yield
    audit.record(session, actor, action, job.id, before=before, after=audit.snapshot(job, *columns))


def _request_stop(session: Session, job: Job, request: StopRequest, message: str) -> None:
    """Store a stop request on a running job, unless an equal or a stronger client request is already stored."""
    if job.stop_request in (request, StopRequest.cancel):
        return
    job.stop_request = request
    session.flush()
    append(session, job.id, Event(message))
