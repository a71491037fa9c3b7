"""What clients do with exports: order, find, cancel and delete them."""

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.errors import InvalidRequest, NotFound
from app.core.exports.tables import UNFINISHED, Export, ExportStatus
from app.core.models.adapters import check_files, get_adapter
from app.core.spec.export import QUANTIZATIONS, ExportFormat, Quantization

_AUDITED: Final = ("model", "format", "options", "status")


def options_of(
    format: ExportFormat,
    quantization: Quantization | None = None,
    *,
    repository: str | None = None,
    private: bool | None = None,
    merged: bool | None = None,
) -> dict[str, Any]:
    """Return the options of an export, with defaults filled in.

    Raises `InvalidRequest` for one that does not apply to the format, and for a push without a repository.
    """
    allowed = QUANTIZATIONS[format]
    if quantization is not None and quantization not in allowed:
        choice = f"Use one of {', '.join(allowed)}." if allowed else "Leave it out."
        raise InvalidRequest(
            f"The format '{format}' cannot have the quantization '{quantization}'. {choice}", param="quantization"
        )
    if format is ExportFormat.push:
        if repository is None:
            raise InvalidRequest("Name the repository to push to, as `owner/name`.", param="repository")
        return {"repository": repository, "private": private is not False, "merged": merged is True}
    for_push = {"repository": repository, "private": private, "merged": merged}
    if given := [name for name, value in for_push.items() if value is not None]:
        raise InvalidRequest(f"Only the format 'push' has `{given[0]}`. Leave it out.", param=given[0])
    return {"quantization": quantization or (allowed[0] if allowed else None)}


def order(
    session: Session,
    actor: Actor,
    name: str,
    format: ExportFormat,
    options: dict[str, Any],
    secret: bytes | None = None,
) -> tuple[Export, bool]:
    """Return the export of the model `name`, and whether it is new: an equal unfinished or succeeded one is reused.

    A succeeded push is not reused: the repository may have changed. `secret` is the encrypted token of the hub.
    Notify workers of a new one after the commit. Raises `NotFound` and `AdapterMissing`.
    """
    adapter = get_adapter(session, actor.project_id, name, lock=True)
    check_files(adapter)
    equal = select(Export).where(
        Export.project_id == actor.project_id,
        Export.model == adapter.id,
        Export.format == format,
        Export.options == options,
        Export.status.in_(UNFINISHED if format is ExportFormat.push else (*UNFINISHED, ExportStatus.succeeded)),
        _not_expired(),
    )
    found = session.scalars(equal.order_by(Export.created_at.desc()).limit(1)).one_or_none()
    if found is not None:
        return found, False
    export = Export(
        id=ids.export_id(),
        project_id=actor.project_id,
        model=adapter.id,
        format=format,
        options=options,
        secret=secret,
        progress=0.0,
    )
    session.add(export)
    session.flush()
    session.refresh(export)
    audit.record(session, actor, Action.export_create, export.id, after=audit.snapshot(export, *_AUDITED))
    return export, True


def find_export(session: Session, project_id: str, export_id: str, *, lock: bool = False) -> Export:
    """Return the project's export; `lock` locks its row. Raises `NotFound`."""
    own = _of(project_id).where(Export.id == export_id)
    if lock:
        own = own.with_for_update()
    export = session.scalars(own, execution_options={"populate_existing": True}).one_or_none()
    if export is None:
        raise NotFound(f"There is no export '{export_id}' in this project.", code="export_not_found")
    return export


def list_exports(
    session: Session, project_id: str, name: str, *, after: str | None, limit: int
) -> tuple[list[Export], bool]:
    """Return a page of the project's exports of a model, newest first, and whether more follow.

    Raises `NotFound` for an unknown model, and `InvalidRequest` with `param` "after".
    """
    statement = _of(project_id).where(Export.model == get_adapter(session, project_id, name).id)
    place = tuple_(Export.created_at, Export.id)
    if after is not None:
        seen = session.execute(
            select(Export.created_at, Export.id).where(Export.id == after, Export.project_id == project_id)
        ).one_or_none()
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        statement = statement.where(place < tuple_(seen.created_at, seen.id))
    rows = session.scalars(statement.order_by(Export.created_at.desc(), Export.id.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def archive_of(export: Export) -> tuple[str, int, str]:
    """Return blob key, size and SHA-256 of an export's archive. Raises `InvalidRequest` if it has none."""
    if export.blob is None or export.bytes is None or export.sha256 is None:
        pushed = (export.manifest or {}).get("repository")
        reason = f"pushed to {pushed['url']}" if pushed else (export.error or {}).get("message")
        raise InvalidRequest(
            f"The export '{export.id}' is {export.status}{f' ({reason})' if reason else ''}: it has no archive.",
            code="export_not_ready",
        )
    return export.blob, export.bytes, export.sha256


def cancel(session: Session, actor: Actor, export_id: str, keep: timedelta) -> Export:
    """Cancel an unfinished export; the worker that makes it stops within seconds. A cancelled one stays as it is.

    Raises `NotFound`, and `InvalidRequest` for an export that has succeeded or failed.
    """
    export = find_export(session, actor.project_id, export_id, lock=True)
    if export.status == ExportStatus.cancelled:
        return export
    if export.status not in UNFINISHED:
        raise InvalidRequest(f"The export '{export_id}' has already {export.status}.", code="export_finished")
    before = audit.snapshot(export, "status")
    export.status, export.finished_at, export.claimed_until = ExportStatus.cancelled, func.now(), None
    export.secret = None
    export.expires_at = func.now() + keep
    session.flush()
    session.refresh(export)
    after = audit.snapshot(export, "status")
    audit.record(session, actor, Action.export_cancel, export.id, before=before, after=after)
    return export


def delete(session: Session, actor: Actor, export_id: str) -> Export:
    """Delete an export in any state and return its row; delete its blob after the commit. Raises `NotFound`."""
    export = find_export(session, actor.project_id, export_id, lock=True)
    audit.record(session, actor, Action.export_delete, export.id, before=audit.snapshot(export, *_AUDITED))
    session.delete(export)
    session.flush()
    return export


def blobs_of_model(session: Session, model: str) -> list[str]:
    """Return the blobs of all exports of a model, in all projects. Its deletion deletes their rows."""
    return [blob for blob in session.scalars(select(Export.blob).where(Export.model == model)) if blob is not None]


def next_expired(session: Session) -> Export | None:
    """Return an expired export with its row locked, or None. Delete its blob first."""
    expired = select(Export).where(Export.expires_at <= func.now()).order_by(Export.expires_at).limit(1)
    return session.scalars(expired.with_for_update(skip_locked=True)).one_or_none()


def _of(project_id: str) -> Select[Export]:
    return select(Export).where(Export.project_id == project_id, _not_expired())


def _not_expired() -> ColumnElement[bool]:
    return or_(Export.expires_at.is_(None), Export.expires_at > func.now())
