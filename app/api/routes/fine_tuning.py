"""`/v1/fine_tuning/jobs`: create, list, retrieve, change, cancel, pause, resume and delete jobs."""

from dataclasses import replace
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.api.adapter_archive import TAR, adapter_archive
from app.api.deps import Config, Db, JobLimits, Jobs, Lints, Models, Notifier, RowChecks, Slow, Store, Strict
from app.api.ids import CheckpointId, JobId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.attempts import AttemptList, AttemptObject
from app.api.schemas.create_job import CreateJob, UpdateJob
from app.api.schemas.jobs import (
    CheckpointObject,
    EventObject,
    JobDeleted,
    JobObject,
)
from app.auth.bearer import Caller
from app.auth.principal import Principal
from app.auth.scopes import needs
from app.core import broker
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.jobs import (
    checkpoints,
    control_requests,
    deletion,
    estimation,
    lifecycle,
    placement,
    queries,
    quotas,
    row_checks,
)
from app.core.jobs.queries import JobOrder
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.submission import JobRequest, SubmissionLimits, ValidatedJob
from app.core.jobs.tables import Job
from app.core.spec.job import MethodType
from app.core.storage.blobs import BlobStore

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


@router.post("", dependencies=[needs(Scope.jobs_write)])
async def create_job(
    request: Request,
    caller: Caller,
    body: CreateJob,
    database: Db,
    store: Store,
    settings: Config,
    lints: Lints,
    rows: RowChecks,
    limits: JobLimits,
    notifier: Notifier,
    tasks: BackgroundTasks,
    slow: Slow,
    strict: Strict = False,
) -> JobObject:
    """Create a job. Everything that can be validated is validated before the job is accepted."""
    wanted = body.to_request()
    try:
        has_signal = await lints.sees_signal(request, caller.project_id, wanted.spec, body.training_file)
    except InvalidRequest as problem:
        raise body.as_sent(problem) from None
    validated = await run_in_threadpool(_validate, caller, body, wanted, database, store, limits)
    checked = await rows.of_job(request, caller.project_id, wanted, validated)
    of_control = await rows.of_control(request, caller.project_id, wanted, validated)
    problems = chain(row_checks.problems(validated.spec, checked.results), of_control.problems)
    if (lost := next(problems, None)) is not None:
        raise body.as_sent(lost)

    def create() -> tuple[list[Job], JobObject]:
        with database.transaction() as session:
            _validated(session, caller, body, replace(wanted, spec=validated.spec), limits)
            quotas.check_gpu_hours(session, caller.project_id, caller.limits.gpu_hours)
            adding = 1 if validated.spec.control is None else 2
            quotas.check_queued_jobs(session, caller.project_id, caller.limits.queued_jobs, adding)
            job = lifecycle.create(
                session,
                caller.actor,
                spec=validated.spec,
                training_file=body.training_file,
                validation_file=body.validation_file,
                test_file=body.test_file,
                priority=body.priority,
                has_signal=has_signal,
                notices=(*wanted.notices, *checked.notices),
                checks=checked.requests,
                control_checks=of_control.requests,
            )
            details = queries.job_details(session, job)
            jobs = [job] if details.control is None else [job, details.control]
            return jobs, JobObject.of(details, strict=strict)

    jobs, answer = await run_in_threadpool(create)
    for job in jobs:
        notifier.add(broker.notify_training if job.status == JobStatus.queued else broker.notify_validation)
    if any(job.lint_due for job in jobs):
        notifier.add(broker.notify_linting)

    def note(deadline: Deadline) -> None:
        share = lints.passing_share(caller.project_id, validated.spec, body.training_file, deadline)
        for job in jobs:
            estimation.note(
                database, store, settings.models_dir, settings.lease_seconds, caller.project_id, job.id, share
            )

    tasks.add_task(slow.rendering.run_later, caller.project_id, note)
    return answer


def _validate(
    caller: Principal,
    body: CreateJob,
    wanted: JobRequest,
    database: Database,
    store: BlobStore,
    limits: SubmissionLimits,
) -> ValidatedJob:
    """Return the job without problems, or raise the first one."""
    with database.transaction() as session:
        validated = _validated(session, caller, body, wanted, limits)
    validated = validated.resolve_start(store)
    if validated.problems:
        raise body.as_sent(validated.problems[0])
    return validated


def _validated(
    session: Any, caller: Principal, body: CreateJob, wanted: JobRequest, limits: SubmissionLimits
) -> ValidatedJob:
    validated = control_requests.validate_request(session, caller.project_id, wanted, limits)
    if validated.problems:
        raise body.as_sent(validated.problems[0])
    return validated


async def _metadata_filter(request: Request) -> dict[str, str] | None:
    """Parse `metadata[key]=value` or `metadata=null`, as OpenAI's clients send it; the latter becomes an empty dict."""
    filters = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    whole = request.query_params.get("metadata")
    if whole is not None and (whole != "null" or filters):
        message = "Filter by `metadata[key]=value`, once per key, or by `metadata=null` for jobs without metadata."
        raise InvalidRequest(message, param="metadata")
    return filters if filters or whole else None


@router.get("", dependencies=[needs(Scope.jobs_read)])
async def list_jobs(
    caller: Caller,
    jobs: Jobs,
    metadata: Annotated[dict[str, str] | None, Depends(_metadata_filter)],
    status: Annotated[JobStatus | None, Query(description="Only jobs with this status.")] = None,
    method: Annotated[MethodType | None, Query(description="Only jobs of this method.")] = None,
    search: Annotated[
        str | None, Query(max_length=200, description="Part of the id, the name, a model or the metadata.")
    ] = None,
    order_by: Annotated[
        JobOrder,
        Query(
            description="What to sort by: `reward` is that of the last step, `name` is `metadata.name` or the suffix."
        ),
    ] = JobOrder.created_at,
    order: Annotated[Literal["asc", "desc"], Query(description="Jobs without a value come last in both.")] = "desc",
    after: After = None,
    limit: Limit = 20,
    strict: Strict = False,
) -> Page[JobObject]:
    """List this project's jobs, newest first unless sorted otherwise. Filter by metadata with `metadata[key]=value`."""

    def read(session: Any) -> Page[JobObject]:
        jobs_of_page, more = queries.list_jobs(
            session,
            caller.project_id,
            after=after,
            limit=limit,
            metadata=metadata,
            status=status,
            method=method,
            search=search,
            order_by=order_by,
            order=order,
        )
        return page(
            [JobObject.of(details, strict=strict) for details in queries.list_details(session, jobs_of_page)],
            more,
        )

    return await jobs.page(read)


@router.get("/{job_id}", dependencies=[needs(Scope.jobs_read)])
async def retrieve_job(
    caller: Caller,
    job_id: JobId,
    jobs: Jobs,
    samples: Annotated[
        bool | None,
        Query(description="Include sample answers of the held-out evaluations; by default once the job is finished."),
    ] = None,
    strict: Strict = False,
) -> JobObject:
    """Retrieve a job with its progress."""
    return await jobs.get(caller.project_id, job_id, strict=strict, samples=samples)


@router.post("/{job_id}", dependencies=[needs(Scope.jobs_write)])
def update_job(
    caller: Caller,
    job_id: JobId,
    body: UpdateJob,
    database: Db,
    limits: JobLimits,
    notifier: Notifier,
    strict: Strict = False,
) -> JobObject:
    """Change the metadata of a job, the priority of one that is not finished, or the resources of one that waits."""
    if body.priority is None and body.metadata is None and body.resources is None:
        raise InvalidRequest("There is nothing to change. Send `metadata`, `priority` or `resources`.")
    if body.priority is not None:
        quotas.check_priority(body.priority, caller.limits.priority)
    with database.transaction() as session:
        if body.metadata is not None:
            job = lifecycle.annotate(session, caller.actor, job_id, body.metadata)
        if body.priority is not None:
            job = lifecycle.prioritise(session, caller.actor, job_id, body.priority)
        if body.resources is not None:
            placement.check(session, body.resources, limits.alive_seconds)
            job = lifecycle.resize(session, caller.actor, job_id, body.resources)
            notifier.add(broker.notify_training)  # a worker that was too small may be free
        return JobObject.of(queries.job_details(session, job), strict=strict)


@router.delete("/{job_id}", dependencies=[needs(Scope.jobs_write)])
def delete_job(caller: Caller, job_id: JobId, database: Db, store: Store, models: Models) -> JobDeleted:
    """Delete a finished job with its checkpoints and result files. Delete the model that it published first."""
    with database.transaction() as session:
        deletion.delete_job(session, caller.actor, job_id)
    models.clear()
    store.discard(deletion.blobs_of(job_id))
    return JobDeleted(id=job_id)


@router.post("/{job_id}/cancel", dependencies=[needs(Scope.jobs_write)])
def cancel_job(caller: Caller, job_id: JobId, database: Db, notifier: Notifier, strict: Strict = False) -> JobObject:
    """Cancel a job that is not finished. A running job stops within seconds."""
    answer = _change_job(lifecycle.cancel, caller, job_id, database, strict=strict)
    notifier.add(broker.notify_webhooks)
    if answer.control_of is not None:
        notifier.add(broker.notify_training)  # the job that waited for this control can start
    return answer


@router.post("/{job_id}/pause", dependencies=[needs(Scope.jobs_write)])
def pause_job(caller: Caller, job_id: JobId, database: Db, notifier: Notifier, strict: Strict = False) -> JobObject:
    """Pause a job. A running job writes a checkpoint first."""
    answer = _change_job(lifecycle.pause, caller, job_id, database, strict=strict)
    notifier.add(broker.notify_webhooks)
    return answer


@router.post("/{job_id}/resume", dependencies=[needs(Scope.jobs_write)])
def resume_job(caller: Caller, job_id: JobId, database: Db, notifier: Notifier, strict: Strict = False) -> JobObject:
    """Queue a paused job again. It resumes from its last checkpoint."""
    answer = _change_job(lifecycle.resume, caller, job_id, database, strict=strict)
    notifier.add(broker.notify_training)
    return answer


def _change_job(
    change: lifecycle.Change, caller: Principal, job_id: str, database: Database, *, strict: bool
) -> JobObject:
    with database.transaction() as session:
        job = change(session, caller.actor, job_id)
        return JobObject.of(queries.job_details(session, job), strict=strict)


@router.get("/{job_id}/events", dependencies=[needs(Scope.jobs_read)])
def list_events(
    caller: Caller, job_id: JobId, database: Db, after: After = None, limit: Limit = 20
) -> Page[EventObject]:
    """List a job's events, newest first."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        events, more = queries.list_events(session, job.id, after=after, limit=limit)
    return page([EventObject.of(event) for event in events], more)


@router.get("/{job_id}/checkpoints", dependencies=[needs(Scope.jobs_read)])
def list_checkpoints(
    caller: Caller, job_id: JobId, database: Db, after: After = None, limit: Limit = 10
) -> Page[CheckpointObject]:
    """List a job's checkpoints, newest first."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        found, more = queries.list_checkpoints(session, job.id, after=after, limit=limit)
    return page([CheckpointObject.of(checkpoint, job, caller.project_name) for checkpoint in found], more)


@router.get(
    "/{job_id}/checkpoints/{checkpoint_id}/download",
    response_class=StreamingResponse,
    responses=TAR,
    dependencies=[needs(Scope.models_read)],
)
def download_checkpoint(
    caller: Caller, job_id: JobId, checkpoint_id: CheckpointId, database: Db, store: Store
) -> StreamingResponse:
    """Download a checkpoint as a tar archive: the PEFT adapter, its config and its README."""
    with database.reading() as session:
        queries.get_job(session, caller.project_id, job_id)
        adapter = checkpoints.model_of(session, caller.project_id, job_id, checkpoint_id)
    return adapter_archive(store, adapter)


@router.get("/{job_id}/attempts", dependencies=[needs(Scope.jobs_read)])
def job_attempts(caller: Caller, job_id: JobId, database: Db) -> AttemptList:
    """List a job's attempts and how each ended."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        attempts = queries.list_attempts(session, job.id)
        last_steps, members = queries.last_steps(session, job.id), queries.list_members(session, job.id)
    return AttemptList(
        data=[
            AttemptObject.of(attempt, last_steps.get(attempt.attempt), members.get(attempt.attempt, ()))
            for attempt in attempts
        ]
    )
