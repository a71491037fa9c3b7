"""`/v1/evals/{id}/runs`: answers of a model to rows, and how the eval's criteria grade them."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request

from app.api.deps import Db, EvalChecks, Notifier, Slow, Strict
from app.api.ids import EvalId, EvalRunId, OutputItemId
from app.api.pagination import After, Limit, Page, page
from app.api.routes.evals import Order
from app.api.schemas.eval_results import EvalRunDeleted, EvalRunObject, OutputItemObject, RunComparisonObject
from app.api.schemas.eval_runs import CreateEvalRun
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.broker import notify_evals, notify_webhooks
from app.core.deadline import Deadline
from app.core.evals import comparison, runs
from app.core.evals.tables import EvalRunStatus
from app.core.jobs import quotas
from app.core.spec.evals import RowStatus

router = APIRouter(prefix="/evals/{eval_id}/runs", tags=["Evals"])

RunStatusFilter = Annotated[EvalRunStatus | None, Query(alias="status", description="Only runs in this state.")]
ItemStatusFilter = Annotated[
    Literal["pass", "passed", "fail", "failed", "error", "errored"] | None,
    Query(alias="status", description="Only rows with this result."),
]
_STATUSES: Final = {"passed": "pass", "failed": "fail", "errored": "error"}


def _dashboard(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}/ui"


@router.post("", status_code=201, dependencies=[needs(Scope.jobs_write)])
async def create_eval_run(
    request: Request,
    caller: Caller,
    eval_id: EvalId,
    body: CreateEvalRun,
    database: Db,
    checker: EvalChecks,
    slow: Slow,
    notify: Notifier,
    strict: Strict = False,
) -> EvalRunObject:
    """Create a run. Every row is checked first; a worker then samples and grades the answers.

    Poll the run until its status is `completed`, `failed` or `canceled`.
    """

    def create(deadline: Deadline) -> EvalRunObject:
        checked = checker.check(caller.project_id, eval_id, body, deadline)
        with database.transaction() as session:
            size, limits = checked.digest.bytes, caller.limits
            if checked.asks_engines:
                runs.check_inference_requests(limits.inference_requests)
            quotas.check_stored_bytes(session, caller.project_id, size, limits.stored_bytes, "eval run")
            run = runs.create(session, caller.actor, caller.key_id, eval_id, checked, limits.queued_jobs)
            content = runs.content_of(session, run)
        return EvalRunObject.of(run, _dashboard(request), strict=strict, content=content)

    created = await slow.grading.run(request, caller.project_id, create)
    notify.add(notify_evals)
    return created


@router.get("", dependencies=[needs(Scope.jobs_read)])
def list_eval_runs(
    request: Request,
    caller: Caller,
    eval_id: EvalId,
    database: Db,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: RunStatusFilter = None,
    strict: Strict = False,
) -> Page[EvalRunObject]:
    """List the runs of an eval."""
    with database.reading() as session:
        found, more = runs.list_runs(
            session, caller.project_id, eval_id, after=after, limit=limit, order=order, status=status
        )
    return page([EvalRunObject.of(run, _dashboard(request), strict=strict) for run in found], more)


@router.get("/{run_id}", dependencies=[needs(Scope.jobs_read)])
def retrieve_eval_run(
    request: Request, caller: Caller, eval_id: EvalId, run_id: EvalRunId, database: Db, strict: Strict = False
) -> EvalRunObject:
    """Retrieve a run, with its results so far."""
    with database.reading() as session:
        run = runs.get_run(session, caller.project_id, eval_id, run_id)
        content = runs.content_of(session, run)
    return EvalRunObject.of(run, _dashboard(request), strict=strict, content=content)


# OpenAI's document cancels with the first path, and its SDK with the second one.
@router.post("/{run_id}", dependencies=[needs(Scope.jobs_write)], operation_id="cancel_eval_run_by_id")
@router.post("/{run_id}/cancel", dependencies=[needs(Scope.jobs_write)], operation_id="cancel_eval_run")
def cancel_eval_run(
    request: Request,
    caller: Caller,
    eval_id: EvalId,
    run_id: EvalRunId,
    database: Db,
    notify: Notifier,
    strict: Strict = False,
) -> EvalRunObject:
    """Cancel an unfinished run. Its finished rows stay."""
    with database.transaction() as session:
        run = runs.cancel(session, caller.actor, eval_id, run_id)
        content = runs.content_of(session, run)
    notify.add(notify_webhooks)
    return EvalRunObject.of(run, _dashboard(request), strict=strict, content=content)


@router.delete("/{run_id}", dependencies=[needs(Scope.jobs_write)])
def delete_eval_run(caller: Caller, eval_id: EvalId, run_id: EvalRunId, database: Db) -> EvalRunDeleted:
    """Delete a run and its rows; an unfinished one stops."""
    with database.transaction() as session:
        runs.delete(session, caller.actor, eval_id, run_id)
    return EvalRunDeleted(run_id=run_id)


@router.get("/{run_id}/comparison/{baseline_id}", dependencies=[needs(Scope.jobs_read)])
def compare_eval_runs(
    caller: Caller, eval_id: EvalId, run_id: EvalRunId, baseline_id: EvalRunId, database: Db
) -> RunComparisonObject:
    """Compare a completed run with another one on the same rows: paired differences and their 95 % intervals."""
    with database.reading() as session:
        run = runs.get_run(session, caller.project_id, eval_id, run_id)
        baseline = runs.get_run(session, caller.project_id, eval_id, baseline_id)
        found = comparison.compare(session, baseline, run)
    return RunComparisonObject.of(baseline, run, found)


@router.get("/{run_id}/output_items", dependencies=[needs(Scope.jobs_read)])
def list_output_items(
    caller: Caller,
    eval_id: EvalId,
    run_id: EvalRunId,
    database: Db,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: ItemStatusFilter = None,
    strict: Strict = False,
) -> Page[OutputItemObject]:
    """List the finished rows of a run, in the order of the data source."""
    wanted = None if status is None else RowStatus(_STATUSES.get(status, status))
    with database.reading() as session:
        run = runs.get_run(session, caller.project_id, eval_id, run_id)
        found, more = runs.list_items(session, run, after=after, limit=limit, order=order, status=wanted)
    return page([OutputItemObject.of(run, row, strict=strict) for row in found], more)


@router.get("/{run_id}/output_items/{output_item_id}", dependencies=[needs(Scope.jobs_read)])
def retrieve_output_item(
    caller: Caller,
    eval_id: EvalId,
    run_id: EvalRunId,
    output_item_id: OutputItemId,
    database: Db,
    strict: Strict = False,
) -> OutputItemObject:
    """Retrieve a finished row of a run."""
    with database.reading() as session:
        run = runs.get_run(session, caller.project_id, eval_id, run_id)
        row = runs.get_item(session, run, output_item_id)
    return OutputItemObject.of(run, row, strict=strict)
