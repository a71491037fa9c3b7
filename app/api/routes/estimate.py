"""`POST /v1/fine_tuning/estimate`: time, tokens and memory of a job before it is created."""

from fastapi import APIRouter, Request

from app.api.deps import Config, Db, JobLimits, Lints, Slow, Store
from app.api.schemas.create_job import CreateJob
from app.api.schemas.estimates import EstimateObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.jobs import estimation, submission
from app.core.lint.run import BEFORE_ACCEPTING

router = APIRouter(prefix="/fine_tuning", tags=["Fine-tuning"])


@router.post("/estimate", dependencies=[needs(Scope.jobs_write)])
async def estimate_job(
    request: Request,
    caller: Caller,
    body: CreateJob,
    database: Db,
    store: Store,
    settings: Config,
    limits: JobLimits,
    slow: Slow,
    lints: Lints,
) -> EstimateObject:
    """Estimate a job without creating it: tokens, time, memory, and whether it fits on a worker.

    The body is that of `POST /v1/fine_tuning/jobs`. For a job that trains only the demonstrations that pass its grader,
    a sample of them is graded first, within three seconds.
    """
    wanted = body.to_request()
    share = None
    if wanted.spec.grades_demonstrations:
        try:
            lint = await lints.of_job(request, caller.project_id, wanted.spec, body.training_file, BEFORE_ACCEPTING)
        except InvalidRequest as problem:
            raise body.as_sent(problem) from None
        share = None if lint is None else lint.passing_share

    def estimate(_deadline: Deadline) -> EstimateObject:
        with database.transaction() as session:
            validated = submission.validate_request(session, caller.project_id, wanted, limits)
            base_model = validated.base_model
            if validated.problems or base_model is None:
                raise body.as_sent(validated.problems[0])
            files = estimation.files_of(session, caller.project_id, wanted.files)
        validated = validated.resolve_start(store)
        if validated.problems:
            raise body.as_sent(validated.problems[0])
        workload = estimation.plan_job(store, validated.spec, base_model, files, settings.models_dir, share)
        with database.reading() as session:
            return EstimateObject.of(estimation.on_workers(session, workload, settings.lease_seconds))

    return await slow.rendering.run(request, caller.project_id, estimate)
