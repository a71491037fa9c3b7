"""What clients do with runs of evals: create, find, list, cancel and delete them, and read their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, insert, select, tuple_
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.accounts.projects import get_project
from app.core.errors import InvalidRequest, NotFound, QuotaExceeded
from app.core.evals.records import Order, get_eval, unknown_cursor
from app.core.evals.rows import RowDigest, SourceRow
from app.core.evals.tables import UNFINISHED, EvalRow, EvalRun, EvalRunStatus
from app.core.plurals import plural
from app.core.spec.evals import CriterionCounts, RowStatus, SamplerSpec, Totals
from app.core.webhooks import events
from app.core.webhooks.events import EventType

_AUDITED: Final = ("eval_id", "name", "data_source", "labels", "status", "rows")
_AT_ONCE: Final = 500
"""Rows in one INSERT."""
MAX_SHOWN_BYTES: Final = 256 * 1024
"""Largest `file_content` that a run shows: clients poll runs, and the rows do not change."""
_ITEM_PREFIX: Final = "outputitem_"


@dataclass(frozen=True)
class RunRequest:
    """A run to create, with its rows checked."""

    name: str | None
    labels: dict[str, str] | None
    data_source: dict[str, Any]
    sampler: SamplerSpec | None
    rows: Sequence[SourceRow]
    digest: RowDigest

    @property
    def asks_engines(self) -> bool:
        """Whether a model of this installation answers."""
        return self.sampler is not None and self.sampler.base_url is None and not self.sampler.is_operators


def check_inference_requests(limit: int) -> None:
    """Raise `QuotaExceeded` if the project may ask no model of this installation."""
    if limit < 1:
        raise QuotaExceeded(
            "The project may have no inference requests in flight (inference_requests is 0), so no model of this "
            "server can answer. Ask an administrator for a higher limit."
        )


def create(
    session: Session, actor: Actor, key_id: str, eval_id: str, request: RunRequest, max_unfinished: int
) -> EvalRun:
    """Queue a run. Notify workers after the commit.

    Raises `NotFound`, and `QuotaExceeded` if the project has `max_unfinished` unfinished runs.
    """
    parent = get_eval(session, actor.project_id, eval_id, keep=True)
    _check_unfinished(session, actor.project_id, max_unfinished)
    run_id = ids.eval_run_id()
    criteria = tuple(CriterionCounts(name=criterion["name"]) for criterion in parent.testing_criteria)
    run = EvalRun(
        id=run_id,
        eval_id=eval_id,
        project_id=actor.project_id,
        key_id=key_id,
        name=request.name or (request.sampler.model if request.sampler else run_id)[:256],
        labels=request.labels,
        data_source=request.data_source,
        sampler=None if request.sampler is None else request.sampler.model_dump(mode="json"),
        rows=request.digest.count,
        bytes=request.digest.bytes,
        rows_sha256=request.digest.sha256,
        totals=Totals(criteria=criteria).model_dump(mode="json"),
    )
    session.add(run)
    session.flush()
    for start in range(0, len(request.rows), _AT_ONCE):
        part = enumerate(request.rows[start : start + _AT_ONCE], start + 1)
        values = [{"run_id": run_id, "number": number, "item": row.item, "given": row.given} for number, row in part]
        session.execute(insert(EvalRow), values)
    session.refresh(run)
    audit.record(session, actor, Action.eval_run_create, run_id, after=audit.snapshot(run, *_AUDITED))
    return run


def _check_unfinished(session: Session, project_id: str, limit: int) -> None:
    project = get_project(session, project_id, lock=True)
    counted = select(func.count()).select_from(EvalRun)
    count = session.scalar(counted.where(EvalRun.project_id == project_id, EvalRun.status.in_(UNFINISHED))) or 0
    if count >= limit:
        raise QuotaExceeded(
            f"The project '{project.name}' has {plural(count, 'unfinished eval run')}; its limit is {limit:,} "
            "(queued_jobs). Wait until some end, cancel some, or ask an administrator for a higher limit."
        )


def get_run(session: Session, project_id: str, eval_id: str, run_id: str, *, lock: bool = False) -> EvalRun:
    """Return a run of the project's eval; `lock` locks its row. Raises `NotFound`."""
    own = select(EvalRun).where(EvalRun.id == run_id, EvalRun.eval_id == eval_id, EvalRun.project_id == project_id)
    if lock:
        own = own.with_for_update()
    run = session.scalars(own, execution_options={"populate_existing": True}).one_or_none()
    if run is None:
        raise NotFound(f"There is no run '{run_id}' of the eval '{eval_id}'.", code="eval_run_not_found")
    return run


def list_runs(
    session: Session,
    project_id: str,
    eval_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "asc",
    status: EvalRunStatus | None = None,
) -> tuple[list[EvalRun], bool]:
    """Return a page of an eval's runs by creation, and whether more follow.

    Raises `NotFound` for an unknown eval, and `InvalidRequest` with `param` "after".
    """
    get_eval(session, project_id, eval_id)
    statement = select(EvalRun).where(EvalRun.eval_id == eval_id)
    if status is not None:
        statement = statement.where(EvalRun.status == status)
    place = tuple_(EvalRun.created_at, EvalRun.id)
    if after is not None:
        seen = session.execute(
            select(EvalRun.created_at, EvalRun.id).where(EvalRun.id == after, EvalRun.eval_id == eval_id)
        ).one_or_none()
        if seen is None:
            raise unknown_cursor(after)
        cursor = tuple_(seen.created_at, seen.id)
        statement = statement.where(place > cursor if order == "asc" else place < cursor)
    columns = EvalRun.created_at, EvalRun.id
    by = [column.asc() if order == "asc" else column.desc() for column in columns]
    rows = session.scalars(statement.order_by(*by).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def cancel(session: Session, actor: Actor, eval_id: str, run_id: str) -> EvalRun:
    """Cancel an unfinished run; its worker stops within seconds. A canceled one stays as it is.

    Raises `NotFound`, and `InvalidRequest` for a run that has completed or failed.
    """
    run = get_run(session, actor.project_id, eval_id, run_id, lock=True)
    if run.status == EvalRunStatus.canceled:
        return run
    if run.status not in UNFINISHED:
        raise InvalidRequest(f"The run '{run_id}' has already {run.status}.", code="eval_run_finished")
    before = audit.snapshot(run, "status")
    run.status, run.finished_at, run.claimed_until = EvalRunStatus.canceled, func.now(), None
    session.flush()
    session.refresh(run)
    after = audit.snapshot(run, "status")
    audit.record(session, actor, Action.eval_run_cancel, run_id, before=before, after=after)
    events.emit(session, run.project_id, EventType.eval_run_canceled, run_id)
    return run


def delete(session: Session, actor: Actor, eval_id: str, run_id: str) -> None:
    """Delete a run in any state, with its rows. Raises `NotFound`."""
    run = get_run(session, actor.project_id, eval_id, run_id, lock=True)
    audit.record(session, actor, Action.eval_run_delete, run_id, before=audit.snapshot(run, *_AUDITED))
    session.delete(run)
    session.flush()


def content_of(session: Session, run: EvalRun) -> list[dict[str, Any]] | None:
    """Return the rows that a run's request had in `file_content`.

    None if they come from a file, or have more than `MAX_SHOWN_BYTES`.
    """
    if run.data_source["source"]["type"] != "file_content" or run.bytes > MAX_SHOWN_BYTES:
        return None
    rows = session.execute(select(EvalRow.item, EvalRow.given).where(EvalRow.run_id == run.id).order_by(EvalRow.number))
    return [{"item": row.item} | ({} if row.given is None else {"sample": row.given}) for row in rows]


def item_id(run_id: str, number: int) -> str:
    """Return the public id of a finished row."""
    return f"{_ITEM_PREFIX}{run_id.rpartition('_')[2]}_{number}"


def _number(run_id: str, output_item_id: str) -> int | None:
    head, _, number = output_item_id.rpartition("_")
    own = head == f"{_ITEM_PREFIX}{run_id.rpartition('_')[2]}"
    return int(number) if own and number.isdecimal() and len(number) <= 9 else None


def get_item(session: Session, run: EvalRun, output_item_id: str) -> EvalRow:
    """Return a finished row. Raises `NotFound`."""
    number = _number(run.id, output_item_id)
    row = None if number is None else session.get(EvalRow, (run.id, number))
    if row is None or row.status is None:
        raise NotFound(
            f"There is no output item '{output_item_id}' in the run '{run.id}'.", code="output_item_not_found"
        )
    return row


def list_items(
    session: Session,
    run: EvalRun,
    *,
    after: str | None,
    limit: int,
    order: Order = "asc",
    status: RowStatus | None = None,
) -> tuple[list[EvalRow], bool]:
    """Return a page of a run's finished rows in the order of the data source, and whether more follow.

    Raises `InvalidRequest` with `param` "after".
    """
    statement = select(EvalRow).where(EvalRow.run_id == run.id, EvalRow.status.is_not(None))
    if status is not None:
        statement = statement.where(EvalRow.status == status)
    if after is not None:
        number = _number(run.id, after)
        if number is None or not 1 <= number <= run.rows:
            raise unknown_cursor(after)
        statement = statement.where(EvalRow.number > number if order == "asc" else EvalRow.number < number)
    by = EvalRow.number.asc() if order == "asc" else EvalRow.number.desc()
    rows = session.scalars(statement.order_by(by).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit
