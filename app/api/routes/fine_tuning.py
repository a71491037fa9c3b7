"""`/v1/fine_tuning/jobs`. Workers are rung after the answer: a broker that is away delays no client."""

from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request
from starlette.responses import StreamingResponse

from app.api.deps import Config, Db, JobLimits, Jobs, Lints, Notifier, Store, Strict
from app.api.ids import JobId
from app.api.metrics_csv import csv_lines
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.create_job import CreateJob, UpdateJob
from app.api.schemas.jobs import (
    AttemptList,
    AttemptObject,
    CheckpointObject,
    EventObject,
    GroupList,
    JobDeleted,
    JobObject,
    MetricSeries,
)
from app.auth.bearer import Caller
from app.auth.principal import Principal
from app.auth.scopes import needs
from app.core import broker
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.jobs import (
    deletion,
    estimation,
    groups,
    lifecycle,
    metric_series,
    queries,
    quotas,
    submission,
)
from app.core.jobs.state_machine import JobStatus
from app.core.spec.job import MethodType
from app.core.spec.reports import Source

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])

MAX_STEP: Final = 2_147_483_647


@router.post("", dependencies=[needs(Scope.jobs_write)])
def create_job(
    caller: Caller,
    body: CreateJob,
    database: Db,
    store: Store,
    settings: Config,
    lints: Lints,
    limits: JobLimits,
    notifier: Notifier,
    tasks: BackgroundTasks,
    strict: Strict = False,
) -> JobObject:
    """Create a job. Everything that can be checked is checked before it is accepted."""
    request = body.to_request()
    try:
        has_signal = lints.sees_signal(caller.project_id, request.spec, body.training_file)
    except InvalidRequest as problem:
        raise body.as_sent(problem) from None
    with database.transaction() as session:
        validated = submission.validate_request(session, caller.project_id, request, limits)
        if validated.problems:
            raise body.as_sent(validated.problems[0])
        quotas.check_gpu_hours(session, caller.project_id, caller.limits.gpu_hours)
        quotas.check_queued_jobs(session, caller.project_id, caller.limits.queued_jobs)
        job = lifecycle.create(
            session,
            caller.actor,
            spec=validated.spec,
            training_file=body.training_file,
            validation_file=body.validation_file,
            priority=body.priority,
            has_signal=has_signal,
        )
        answer = JobObject.of(queries.job_details(session, job), strict=strict)
    notifier.add(broker.notify_training if job.status == JobStatus.queued else broker.notify_validation)
    if job.lint_due:
        notifier.add(broker.notify_linting)
    note = partial(estimation.note, models_dir=settings.models_dir, alive_seconds=settings.lease_seconds)
    tasks.add_task(note, database, store, project_id=caller.project_id, job_id=job.id)
    return answer


async def _metadata_filter(request: Request) -> dict[str, str] | None:
    """`metadata[key]=value` or `metadata=null`, as OpenAI's clients send it; an empty dict stands for the latter."""
    wanted = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    whole = request.query_params.get("metadata")
    if whole is not None and (whole != "null" or wanted):
        message = "Filter by `metadata[key]=value`, one for each key, or by `metadata=null` for jobs without metadata."
        raise InvalidRequest(message, param="metadata")
    return wanted if wanted or whole else None


@router.get("", dependencies=[needs(Scope.jobs_read)])
async def list_jobs(
    caller: Caller,
    jobs: Jobs,
    metadata: Annotated[dict[str, str] | None, Depends(_metadata_filter)],
    status: Annotated[JobStatus | None, Query(description="Only jobs in this state.")] = None,
    method: Annotated[MethodType | None, Query(description="Only jobs of this method.")] = None,
    search: Annotated[
        str | None, Query(max_length=200, description="Part of the id, the name, a model or the metadata.")
    ] = None,
    after: After = None,
    limit: Limit = 20,
    strict: Strict = False,
) -> Page[JobObject]:
    """List this project's jobs, newest first; `metadata[key]=value` filters, and so do the fields that OpenAI lacks."""

    def read(session: Any) -> Page[JobObject]:
        found, more = queries.list_jobs(
            session,
            caller.project_id,
            after=after,
            limit=limit,
            metadata=metadata,
            status=status,
            method=method,
            search=search,
        )
        return page(
            [JobObject.of(one, strict=strict, samples=False) for one in queries.list_details(session, found)], more
        )

    return await jobs.page(read)


@router.get("/{job_id}", dependencies=[needs(Scope.jobs_read)])
async def retrieve_job(caller: Caller, job_id: JobId, jobs: Jobs, strict: Strict = False) -> JobObject:
    """One job with its progress."""
    return await jobs.get(caller.project_id, job_id, strict=strict)


@router.post("/{job_id}", dependencies=[needs(Scope.jobs_write)])
def update_job(caller: Caller, job_id: JobId, body: UpdateJob, database: Db, strict: Strict = False) -> JobObject:
    """Change the priority of a job that is not finished."""
    quotas.check_priority(body.priority, caller.limits.priority)
    with database.transaction() as session:
        job = lifecycle.prioritise(session, caller.actor, job_id, body.priority)
        return JobObject.of(queries.job_details(session, job), strict=strict)


@router.delete("/{job_id}", dependencies=[needs(Scope.jobs_write)])
def delete_job(caller: Caller, job_id: JobId, database: Db, store: Store) -> JobDeleted:
    """Delete a finished job with its checkpoints and result files. The model that it published goes first."""
    with database.transaction() as session:
        deletion.delete_job(session, caller.actor, job_id)
    store.discard(deletion.blobs_of(job_id))
    return JobDeleted(id=job_id)


@router.post("/{job_id}/cancel", dependencies=[needs(Scope.jobs_write)])
def cancel_job(caller: Caller, job_id: JobId, database: Db, notifier: Notifier, strict: Strict = False) -> JobObject:
    """Cancel a job that is not finished; a running one ends within seconds."""
    answer = _change_job(lifecycle.cancel, caller, job_id, database, strict=strict)
    notifier.add(broker.notify_webhooks)
    return answer


@router.post("/{job_id}/pause", dependencies=[needs(Scope.jobs_write)])
def pause_job(caller: Caller, job_id: JobId, database: Db, notifier: Notifier, strict: Strict = False) -> JobObject:
    """Pause a job; a running one writes a checkpoint first."""
    answer = _change_job(lifecycle.pause, caller, job_id, database, strict=strict)
    notifier.add(broker.notify_webhooks)
    return answer


@router.post("/{job_id}/resume", dependencies=[needs(Scope.jobs_write)])
def resume_job(caller: Caller, job_id: JobId, database: Db, notifier: Notifier, strict: Strict = False) -> JobObject:
    """Queue a paused job again; it resumes from its last checkpoint."""
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
    """What happened, newest first."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        events, more = queries.list_events(session, job.id, after=after, limit=limit)
    return page([EventObject.of(event) for event in events], more)


@router.get("/{job_id}/checkpoints", dependencies=[needs(Scope.jobs_read)])
def list_checkpoints(
    caller: Caller, job_id: JobId, database: Db, after: After = None, limit: Limit = 10
) -> Page[CheckpointObject]:
    """Checkpoints, newest first."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        checkpoints, more = queries.list_checkpoints(session, job.id, after=after, limit=limit)
    return page([CheckpointObject.of(one, job, caller.project_name) for one in checkpoints], more)


@router.get(
    "/{job_id}/metrics",
    response_model=MetricSeries,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    dependencies=[needs(Scope.jobs_read)],
)
def job_metrics(
    caller: Caller,
    job_id: JobId,
    database: Db,
    names: Annotated[str | None, Query(max_length=4096, description="Comma-separated; all if absent.")] = None,
    points: Annotated[
        int,
        Query(
            ge=10,
            le=metric_series.MAX_POINTS,
            description="At most so many steps. Of more, the last one of each stretch and, for each of `names`, the "
            "steps of its least and greatest value are given.",
        ),
    ] = metric_series.DEFAULT_POINTS,
    step_from: Annotated[int, Query(ge=0, le=MAX_STEP, description="The first step.")] = 0,
    step_to: Annotated[int, Query(ge=0, le=MAX_STEP, description="The last step.")] = MAX_STEP,
    output: Annotated[
        Literal["json", "csv"], Query(alias="format", description="`csv` has every step, whatever `points` says.")
    ] = "json",
) -> MetricSeries | StreamingResponse:
    """Values by step for charts: as many steps as `points` allows, no extreme lost; or all of them as CSV."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else []
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        if output == "csv":
            columns = wanted or metric_series.metric_names(session, job.id)
            lines = csv_lines(database, job.id, columns, step_from, step_to)
            return StreamingResponse(
                lines,
                media_type="text/csv",
                headers={"content-disposition": f'attachment; filename="{job.id}.csv"'},
            )
        metric_series.check_names(session, job.id, wanted)
        found, is_sampled = metric_series.sampled(
            session, job.id, names=wanted, points=points, first=step_from, last=step_to
        )
    return MetricSeries.of(job_id, found, wanted, is_sampled=is_sampled)


@router.get("/{job_id}/groups", dependencies=[needs(Scope.jobs_read)])
def job_groups(
    caller: Caller,
    job_id: JobId,
    database: Db,
    step: Annotated[int | None, Query(ge=0, le=MAX_STEP, description="The latest one if absent.")] = None,
    step_from: Annotated[int | None, Query(ge=0, le=MAX_STEP, description="Instead of `step`: several.")] = None,
    step_to: Annotated[int, Query(ge=0, le=MAX_STEP, description="The last step.")] = MAX_STEP,
    row: Annotated[
        int | None, Query(ge=0, le=MAX_STEP, description="The groups of this row alone, as members call it.")
    ] = None,
    source: Annotated[Source | None, Query(description="Sort by members of this source alone.")] = None,
    sort: Annotated[groups.Order, Query(description="What comes first.")] = groups.Order.step,
    after: After = None,
    limit: Limit = 100,
) -> GroupList:
    """The groups of one step or several: who said what, what it earned and how it was weighted."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        steps = groups.steps(session, job.id)
        shown = step if step is not None or step_from is not None else max(steps, default=None)
        first, last = (shown or 0, shown or 0) if step_from is None else (step_from, step_to)
        found, more = groups.page(
            session, job.id, first=first, last=last, row=row, source=source, order=sort, after=after, limit=limit
        )
    return GroupList.of(job_id, None if step_from is not None else shown, steps, found, more)


@router.get("/{job_id}/attempts", dependencies=[needs(Scope.jobs_read)])
def job_attempts(caller: Caller, job_id: JobId, database: Db) -> AttemptList:
    """Every time that a worker took the job up, and how that ended."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        attempts = queries.list_attempts(session, job.id)
        reached = queries.last_steps(session, job.id)
    return AttemptList(data=[AttemptObject.of(one, reached.get(one.attempt)) for one in attempts])
