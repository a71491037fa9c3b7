"""What clients do with evals: create, find, list, change and delete them."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.errors import InvalidRequest, NotFound
from app.core.evals.tables import Eval
from app.core.spec.graders import BaseGrader, Grader

_AUDITED: Final = ("name", "data_source_config", "testing_criteria", "labels")
_CRITERIA: Final = TypeAdapter[list[Grader]](list[Grader])
Order = Literal["asc", "desc"]


def create(
    session: Session,
    actor: Actor,
    *,
    name: str | None,
    data_source_config: dict[str, Any],
    testing_criteria: list[dict[str, Any]],
    labels: dict[str, str] | None,
) -> Eval:
    """Create an eval; without a name, its id is its name."""
    eval_id = ids.eval_id()
    created = Eval(
        id=eval_id,
        project_id=actor.project_id,
        name=name or eval_id,
        data_source_config=data_source_config,
        testing_criteria=testing_criteria,
        labels=labels,
    )
    session.add(created)
    session.flush()
    session.refresh(created)
    audit.record(session, actor, Action.eval_create, eval_id, after=audit.snapshot(created, *_AUDITED))
    return created


def get_eval(session: Session, project_id: str, eval_id: str, *, lock: bool = False, keep: bool = False) -> Eval:
    """Return the project's eval. `lock` locks its row, and `keep` only prevents its deletion. Raises `NotFound`."""
    own = select(Eval).where(Eval.id == eval_id, Eval.project_id == project_id)
    if lock or keep:
        own = own.with_for_update(read=keep, key_share=keep)
    found = session.scalars(own, execution_options={"populate_existing": True}).one_or_none()
    if found is None:
        raise NotFound(f"There is no eval '{eval_id}' in this project.", code="eval_not_found")
    return found


def list_evals(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order = "asc",
    order_by: Literal["created_at", "updated_at"] = "created_at",
) -> tuple[list[Eval], bool]:
    """Return a page of the project's evals, and whether more follow. Raises `InvalidRequest` with `param` "after"."""
    column: InstrumentedAttribute[Any] = getattr(Eval, order_by)
    statement = select(Eval).where(Eval.project_id == project_id)
    place = tuple_(column, Eval.id)
    if after is not None:
        seen = session.execute(
            select(column.label("at"), Eval.id).where(Eval.id == after, Eval.project_id == project_id)
        ).one_or_none()
        if seen is None:
            raise unknown_cursor(after)
        cursor = tuple_(seen.at, seen.id)
        statement = statement.where(place > cursor if order == "asc" else place < cursor)
    by = (column.asc(), Eval.id.asc()) if order == "asc" else (column.desc(), Eval.id.desc())
    rows = session.scalars(statement.order_by(*by).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def read_criteria(stored: Sequence[dict[str, Any]]) -> list[BaseGrader]:
    """Return the graders of stored criteria."""
    return list(_CRITERIA.validate_python(stored))


def unknown_cursor(after: str) -> InvalidRequest:
    """Return the error for an `after` that is not in the list."""
    return InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")


def update(session: Session, actor: Actor, eval_id: str, changes: dict[str, Any]) -> Eval:
    """Change `name` and `labels`, where given. Raises `NotFound`."""
    found = get_eval(session, actor.project_id, eval_id, lock=True)
    before = audit.snapshot(found, "name", "labels")
    for name, value in changes.items():
        setattr(found, name, value)
    found.updated_at = func.now()
    session.flush()
    session.refresh(found)
    after = audit.snapshot(found, "name", "labels")
    audit.record(session, actor, Action.eval_update, eval_id, before=before, after=after)
    return found


def delete(session: Session, actor: Actor, eval_id: str) -> None:
    """Delete an eval with its runs; unfinished ones stop. Raises `NotFound`."""
    found = get_eval(session, actor.project_id, eval_id, lock=True)
    audit.record(session, actor, Action.eval_delete, eval_id, before=audit.snapshot(found, *_AUDITED))
    session.delete(found)
    session.flush()
