"""`/v1/fine_tuning/jobs`. Workers are rung after the answer: a broker that is away delays no client."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request

from app.api.deps import Config, Db, Strict
from app.api.ids import JobId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.create_job import CreateJob
from app.api.schemas.jobs import (
    AttemptList,
    AttemptObject,
    CheckpointObject,
    EventObject,
    GroupList,
    JobObject,
    MetricSeries,
)
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core import broker
from app.core.accounts.scopes import Scope
from app.core.errors import InvalidRequest
from app.core.jobs import audited, checks, gates, lifecycle, queries, quotas
from app.core.jobs.states import JobStatus
from app.core.jobs.views import view, views
from app.core.models import aliases
from app.core.models.adapters import starting_point

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


@router.post("", dependencies=[needs(Scope.jobs_write)])
def create_job(
    caller: Caller,
    body: CreateJob,
    database: Db,
    settings: Config,
    after: BackgroundTasks,
    strict: Strict = False,
) -> JobObject:
    """Create a job. Everything that can be checked is checked before it is accepted."""
    with database.transaction() as session:
        base, adapter = starting_point(
            session, caller.project_id, body.model, settings.models_dir, settings.model_aliases
        )
        spec = body.to_spec(base if adapter is None else adapter.id)
        gates.check_measurable(spec, body.validation_file)
        if spec.alias is not None:
            aliases.check_name(spec.alias, settings.models_dir, settings.model_aliases)
        try:
            checks.check_against_files(session, caller.project_id, spec, body.training_file, body.validation_file)
        except InvalidRequest as error:
            error.param = body.path_as_sent(error.param or "", {"gft": body.gft}) or None
            raise
        quotas.check_queued_jobs(session, caller.project_id, caller.limits.queued_jobs)
        job = lifecycle.create(
            session,
            project_id=caller.project_id,
            spec=spec,
            training_file=body.training_file,
            validation_file=body.validation_file,
        )
        audited.note_created(session, caller.actor, job)
        answer = JobObject.of(view(session, job), strict=strict)
    if settings.redis_url is not None:
        ring = broker.ring_training if job.status == JobStatus.queued else broker.ring_validation
        after.add_task(ring, settings.redis_url)
    return answer


def _metadata_filter(request: Request) -> dict[str, str] | None:
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
def list_jobs(
    caller: Caller,
    database: Db,
    metadata: Annotated[dict[str, str] | None, Depends(_metadata_filter)],
    after: After = None,
    limit: Limit = 20,
    strict: Strict = False,
) -> Page[JobObject]:
    """List this project's jobs, newest first; `metadata[key]=value` filters."""
    with database.transaction() as session:
        jobs, more = queries.list_jobs(session, caller.project_id, after=after, limit=limit, metadata=metadata)
        return page([JobObject.of(one, strict=strict, samples=False) for one in views(session, jobs)], more)


@router.get("/{job_id}", dependencies=[needs(Scope.jobs_read)])
def retrieve_job(caller: Caller, job_id: JobId, database: Db, strict: Strict = False) -> JobObject:
    """One job with its progress."""
    with database.transaction() as session:
        return JobObject.of(view(session, queries.get_job(session, caller.project_id, job_id)), strict=strict)


@router.post("/{job_id}/cancel", dependencies=[needs(Scope.jobs_write)])
def cancel_job(caller: Caller, job_id: JobId, database: Db, strict: Strict = False) -> JobObject:
    """Cancel a job that is not finished; a running one ends within seconds."""
    with database.transaction() as session:
        return JobObject.of(view(session, audited.cancel(session, caller.actor, job_id)), strict=strict)


@router.post("/{job_id}/pause", dependencies=[needs(Scope.jobs_write)])
def pause_job(caller: Caller, job_id: JobId, database: Db, strict: Strict = False) -> JobObject:
    """Pause a job; a running one writes a checkpoint first."""
    with database.transaction() as session:
        return JobObject.of(view(session, audited.pause(session, caller.actor, job_id)), strict=strict)


@router.post("/{job_id}/resume", dependencies=[needs(Scope.jobs_write)])
def resume_job(
    caller: Caller,
    job_id: JobId,
    database: Db,
    settings: Config,
    after: BackgroundTasks,
    strict: Strict = False,
) -> JobObject:
    """Queue a paused job again; it goes on from its last checkpoint."""
    with database.transaction() as session:
        answer = JobObject.of(view(session, audited.resume(session, caller.actor, job_id)), strict=strict)
    if settings.redis_url is not None:
        after.add_task(broker.ring_training, settings.redis_url)
    return answer


@router.get("/{job_id}/events", dependencies=[needs(Scope.jobs_read)])
def list_events(
    caller: Caller, job_id: JobId, database: Db, after: After = None, limit: Limit = 20
) -> Page[EventObject]:
    """What happened, newest first."""
    with database.transaction() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        events, more = queries.list_events(session, job.id, after=after, limit=limit)
    return page([EventObject.of(event) for event in events], more)


@router.get("/{job_id}/checkpoints", dependencies=[needs(Scope.jobs_read)])
def list_checkpoints(
    caller: Caller, job_id: JobId, database: Db, after: After = None, limit: Limit = 10
) -> Page[CheckpointObject]:
    """Checkpoints, newest first."""
    with database.transaction() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        checkpoints, more = queries.list_checkpoints(session, job.id, after=after, limit=limit)
    return page([CheckpointObject.of(one, job, caller.project_name) for one in checkpoints], more)


@router.get("/{job_id}/metrics", dependencies=[needs(Scope.jobs_read)])
def job_metrics(
    caller: Caller,
    job_id: JobId,
    database: Db,
    names: Annotated[str | None, Query(max_length=4096, description="Comma-separated; all if absent.")] = None,
) -> MetricSeries:
    """Every step's values as one list a name."""
    with database.transaction() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        metrics = queries.list_metrics(session, job.id)
    return MetricSeries.of(job_id, metrics, set(names.split(",")) if names else None)


@router.get("/{job_id}/groups", dependencies=[needs(Scope.jobs_read)])
def job_groups(
    caller: Caller,
    job_id: JobId,
    database: Db,
    step: Annotated[int | None, Query(ge=0, le=2_147_483_647, description="The latest one if absent.")] = None,
) -> GroupList:
    """The groups of one step: who said what, what it earned and how it was weighted."""
    with database.transaction() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        groups = queries.list_groups(session, job.id, step=step)
    return GroupList.of(job_id, step, groups)


@router.get("/{job_id}/attempts", dependencies=[needs(Scope.jobs_read)])
def job_attempts(caller: Caller, job_id: JobId, database: Db) -> AttemptList:
    """Every time that a worker took the job up, and how that ended."""
    with database.transaction() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        attempts = queries.list_attempts(session, job.id)
    return AttemptList(data=[AttemptObject.of(attempt) for attempt in attempts])
