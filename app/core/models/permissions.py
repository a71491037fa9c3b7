"""Permissions to use another project's models: as the start of a job, in lists and for downloads. Owners grant them."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select, text, tuple_
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import InvalidRequest, NotFound
from app.core.models.adapters import get_own
from app.core.models.tables import CheckpointPermission

_GRANT: Final = text(
    """
    INSERT INTO checkpoint_permissions (id, model, project_id)
    SELECT wanted.id, :model, projects.id
    FROM unnest(CAST(:ids AS text[]), CAST(:project_ids AS text[])) AS wanted(id, project_id)
    JOIN projects ON projects.id = wanted.project_id
    ON CONFLICT (model, project_id) DO NOTHING
    """
)


def grant(session: Session, project_id: str, model: str, project_ids: Sequence[str]) -> list[CheckpointPermission]:
    """Let the projects use `model`; returns their permissions in this order, including existing ones.

    Raises `NotFound` if the project does not own the model, and `InvalidRequest` for an unknown project.
    """
    get_own(session, project_id, model)
    wanted = list(dict.fromkeys(project_ids))
    new_ids = [ids.permission_id() for _ in wanted]
    session.execute(_GRANT, {"model": model, "ids": new_ids, "project_ids": wanted})
    query = select(CheckpointPermission).where(
        CheckpointPermission.model == model, CheckpointPermission.project_id.in_(wanted)
    )
    granted = {permission.project_id: permission for permission in session.scalars(query)}
    for index, wanted_id in enumerate(project_ids):
        if wanted_id not in granted:
            raise InvalidRequest(
                f"There is no project '{wanted_id}' on this server.",
                param=f"project_ids.{index}",
                code="project_not_found",
            )
    return [granted[wanted_id] for wanted_id in wanted]


def list_permissions(
    session: Session,
    project_id: str,
    model: str,
    *,
    after: str | None,
    limit: int,
    newest_first: bool,
    of_project: str | None = None,
) -> tuple[list[CheckpointPermission], bool]:
    """Return a page of permissions by creation time, and whether more follow; `of_project` filters by project.

    Raises `NotFound` if the project does not own the model, and `InvalidRequest` with `param` "after".
    """
    get_own(session, project_id, model)
    statement = select(CheckpointPermission).where(CheckpointPermission.model == model)
    if of_project is not None:
        statement = statement.where(CheckpointPermission.project_id == of_project)
    place = tuple_(CheckpointPermission.created_at, CheckpointPermission.id)
    if after is not None:
        seen = _get(session, model, after)
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        mark = tuple_(seen.created_at, seen.id)
        statement = statement.where(place < mark if newest_first else place > mark)
    columns = (CheckpointPermission.created_at, CheckpointPermission.id)
    order = [column.desc() if newest_first else column.asc() for column in columns]
    rows = session.scalars(statement.order_by(*order).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def revoke(session: Session, project_id: str, model: str, permission_id: str) -> None:
    """Revoke a permission: no new job of the other project can start from the model.

    A job that is already training continues, but its next attempt, if it needs one, fails. Raises `NotFound`.
    """
    get_own(session, project_id, model)
    permission = _get(session, model, permission_id)
    if permission is None:
        raise NotFound(f"There is no permission '{permission_id}' on the model '{model}'.")
    session.delete(permission)
    session.flush()


def _get(session: Session, model: str, permission_id: str) -> CheckpointPermission | None:
    query = select(CheckpointPermission).where(
        CheckpointPermission.id == permission_id, CheckpointPermission.model == model
    )
    return session.scalars(query).one_or_none()
