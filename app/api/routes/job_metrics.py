"""`/v1/fine_tuning/jobs/{id}/metrics` and `/groups`: what a job's training recorded at each step."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from app.api.deps import Db
from app.api.ids import JobId
from app.api.pagination import After, Limit
from app.api.schemas.jobs import GroupList, MetricSeries
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.jobs import groups, metric_series, queries
from app.core.spec.reports import Source

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])

MAX_STEP: Final = 2_147_483_647


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
    names: Annotated[str | None, Query(max_length=4096, description="Comma-separated names; all if absent.")] = None,
    points: Annotated[
        int,
        Query(
            ge=10,
            le=metric_series.MAX_POINTS,
            description="Maximum number of steps. Longer series are sampled: the last step of each stretch is kept, "
            "and for each of `names` the steps with its minimum and maximum.",
        ),
    ] = metric_series.DEFAULT_POINTS,
    step_from: Annotated[int, Query(ge=0, le=MAX_STEP, description="The first step.")] = 0,
    step_to: Annotated[int, Query(ge=0, le=MAX_STEP, description="The last step.")] = MAX_STEP,
    output: Annotated[
        Literal["json", "csv"], Query(alias="format", description="`csv` contains every step, regardless of `points`.")
    ] = "json",
) -> MetricSeries | StreamingResponse:
    """Return metrics by step: sampled to `points` steps without losing extremes, or all steps as CSV."""
    requested = [name.strip() for name in names.split(",") if name.strip()] if names else []
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        if output == "csv":
            columns = requested or metric_series.metric_names(session, job.id)
            lines = _csv_lines(database, job.id, columns, step_from, step_to)
            return StreamingResponse(
                lines,
                media_type="text/csv",
                headers={"content-disposition": f'attachment; filename="{job.id}.csv"'},
            )
        metric_series.check_names(session, job.id, requested)
        series, is_sampled = metric_series.sampled(
            session, job.id, names=requested, points=points, first=step_from, last=step_to
        )
    return MetricSeries.of(job_id, series, requested, is_sampled=is_sampled)


@router.get("/{job_id}/groups", dependencies=[needs(Scope.jobs_read)])
def job_groups(
    caller: Caller,
    job_id: JobId,
    database: Db,
    step: Annotated[int | None, Query(ge=0, le=MAX_STEP, description="The latest step if absent.")] = None,
    step_from: Annotated[
        int | None, Query(ge=0, le=MAX_STEP, description="First step of a range, instead of `step`.")
    ] = None,
    step_to: Annotated[int, Query(ge=0, le=MAX_STEP, description="Last step of the range.")] = MAX_STEP,
    row: Annotated[
        int | None, Query(ge=0, le=MAX_STEP, description="Only groups of this row, a line of the training file.")
    ] = None,
    source: Annotated[Source | None, Query(description="Sort by the members of this source only.")] = None,
    sort: Annotated[groups.GroupOrder, Query(description="The order of the groups.")] = groups.GroupOrder.step,
    after: After = None,
    limit: Limit = 100,
) -> GroupList:
    """List the groups of one or several steps: each member with its source, text, reward and advantage."""
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        steps = groups.steps(session, job.id)
        shown_step = step if step is not None or step_from is not None else max(steps, default=None)
        first, last = (shown_step or 0, shown_step or 0) if step_from is None else (step_from, step_to)
        page, more = groups.page(
            session, job.id, first=first, last=last, row=row, source=source, order=sort, after=after, limit=limit
        )
    return GroupList.of(job_id, None if step_from is not None else shown_step, steps, page, more)


def _csv_lines(database: Database, job_id: str, names: Sequence[str], first: int, last: int) -> Iterator[str]:
    """Yield the header `step,NAMES...` and one line per step, with an empty cell where a step lacks the metric."""
    yield _csv_line(["step", *names])
    while True:  # one transaction per batch, so that a slow client holds no connection
        with database.reading() as session:
            batch = metric_series.steps_from(session, job_id, first, last)
        if not batch:
            return
        yield "".join(_csv_line([step, *(values.get(name) for name in names)]) for step, values in batch)
        first = batch[-1][0] + 1


def _csv_line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
