"""`POST /v1/fine_tuning/estimate`: time, tokens and memory of a job before it is created."""

from fastapi import APIRouter, Request

from app.api.deps import Config, Db, JobLimits, Lints, Slow, Store
from app.api.schemas.create_job import CreateJob
from app.api.schemas.estimates import ControlEstimate, EstimateObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.jobs import control_requests, estimation
from app.core.spec.control import control_spec

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

    def estimate(deadline: Deadline) -> EstimateObject:
        wanted = body.to_request()
        with database.transaction() as session:
            validated = control_requests.validate_request(session, caller.project_id, wanted, limits)
            base_model = validated.base_model
            if validated.problems or base_model is None:
                raise body.as_sent(validated.problems[0])
            files = estimation.files_of(session, caller.project_id, wanted.files)
        validated = validated.resolve_start(store)
        if validated.problems:
            raise body.as_sent(validated.problems[0])
        spec = validated.spec
        share = lints.passing_share(caller.project_id, validated.spec, body.training_file, deadline)
        workload = estimation.plan_job(store, spec, base_model, files, settings.models_dir, share)
        control = None
        if spec.control is not None:
            own = control_spec(spec)
            control = estimation.plan_job(store, own, base_model, files, settings.models_dir, share, budget_of=spec)
        with database.reading() as session:
            found = estimation.on_workers(session, workload, settings.lease_seconds)
            first = None if control is None else estimation.on_workers(session, control, settings.lease_seconds)
        if spec.control is None or first is None:
            return EstimateObject.of(found)
        return EstimateObject.of(found, ControlEstimate.of(spec.control, first))

    return await slow.rendering.run(request, caller.project_id, estimate)
