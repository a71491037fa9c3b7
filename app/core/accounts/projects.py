"""Projects: administrators create, limit and archive them. Names never change, because model names contain them."""

from typing import Any, Final

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import api_key_admin, audit
from app.core.accounts.api_keys import DEFAULT_PROJECT
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import ApiKey, Project
from app.core.errors import InvalidRequest, NotFound

SETTINGS: Final = (
    "strict_enums",
    *("max_requests_per_minute", "max_running_jobs", "max_queued_jobs"),
    *("max_stored_bytes", "max_gpu_hours", "max_priority", "max_inference_requests"),
)
"""Columns that administrators can set."""
_AUDITED: Final = ("name", "archived_at", *SETTINGS)


def create_project(session: Session, actor: Actor, name: str, settings: dict[str, int | bool | None]) -> Project:
    """Create a project; `settings` are columns of `SETTINGS`. Raises `InvalidRequest` if the name is taken."""
    values = {"id": ids.project_id(), "name": name} | settings
    project = session.scalars(insert(Project).values(values).on_conflict_do_nothing().returning(Project)).one_or_none()
    if project is None:
        raise InvalidRequest(f"The project '{name}' already exists. Choose another name.", param="name")
    after = audit.snapshot(project, *_AUDITED)
    audit.record(session, actor, Action.project_create, project.id, project_id=project.id, after=after)
    return project


def get_project(session: Session, project_id: str, *, lock: bool = False) -> Project:
    """Return the project; `lock` locks its row for the transaction. Raises `NotFound`."""
    statement = select(Project).where(Project.id == project_id)
    if lock:
        # Not FOR UPDATE: inserts of rows that reference the project would wait for it, because of their foreign keys.
        statement = statement.with_for_update(key_share=True)
    project = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if project is None:
        raise NotFound(f"There is no project '{project_id}'. GET /v1/projects lists the projects.")
    return project


def list_projects(session: Session, *, after: str | None, limit: int) -> tuple[list[Project], bool]:
    """Return a page of projects, newest first and including archived ones, and whether more follow.

    Raises `InvalidRequest` with `param` "after" if `after` is not the id of a project.
    """
    statement = select(Project)
    if after is not None:
        seen = session.get(Project, after)
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        statement = statement.where(tuple_(Project.created_at, Project.id) < tuple_(seen.created_at, seen.id))
    rows = session.scalars(statement.order_by(Project.created_at.desc(), Project.id.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def update_project(
    session: Session, actor: Actor, project_id: str, *, archived: bool | None, settings: dict[str, int | bool | None]
) -> Project:
    """Set the given `settings`, and archive or unarchive the project; None leaves `archived` unchanged.

    Raises `NotFound`, and `InvalidRequest` for archiving the installation's own project or the last administrator's.
    """
    administrators = api_key_admin.lock_administrators(session) if archived else []
    project = get_project(session, project_id, lock=True)
    before = audit.snapshot(project, *_AUDITED)
    if archived:
        _check_archivable(project, administrators)
    values: dict[str, Any] = dict(settings)
    if archived is not None and archived != (project.archived_at is not None):
        values["archived_at"] = func.now() if archived else None
    for name, value in values.items():
        setattr(project, name, value)
    session.flush()
    session.refresh(project)
    after = audit.snapshot(project, *_AUDITED)
    audit.record(session, actor, Action.project_update, project.id, project_id=project.id, before=before, after=after)
    return project


def _check_archivable(project: Project, administrators: list[ApiKey]) -> None:
    if project.name == DEFAULT_PROJECT:
        message = f"'{DEFAULT_PROJECT}' is the project of the installation's own key and cannot be archived."
        raise InvalidRequest(message, param="archived")
    if administrators and all(key.project_id == project.id for key in administrators):
        raise api_key_admin.last_administrator_error(f"'{project.name}' holds the last administrator's key")
