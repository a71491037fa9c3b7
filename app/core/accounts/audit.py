"""The audit log. An entry is written in the transaction of the change that it records, and is never modified."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import effects
from app.core.accounts.tables import AuditEntry
from app.core.errors import InvalidRequest


class Action(StrEnum):
    """The actions that are recorded."""

    key_create = "api_key.create"
    key_revoke = "api_key.revoke"
    key_rotate = "api_key.rotate"
    trust_create = "oidc_trust.create"
    trust_delete = "oidc_trust.delete"
    project_create = "project.create"
    project_update = "project.update"
    file_create = "file.create"
    file_delete = "file.delete"
    job_create = "job.create"
    job_cancel = "job.cancel"
    job_pause = "job.pause"
    job_resume = "job.resume"
    job_update = "job.update"
    job_delete = "job.delete"
    model_delete = "model.delete"
    base_model_pull = "base_model.pull"
    base_model_cancel = "base_model.cancel"
    export_create = "export.create"
    export_cancel = "export.cancel"
    export_delete = "export.delete"
    eval_create = "eval.create"
    eval_update = "eval.update"
    eval_delete = "eval.delete"
    eval_run_create = "eval.run.create"
    eval_run_cancel = "eval.run.cancel"
    eval_run_delete = "eval.run.delete"
    alias_move = "model_alias.move"
    alias_delete = "model_alias.delete"
    permission_grant = "checkpoint.permission.grant"
    permission_revoke = "checkpoint.permission.revoke"
    webhook_create = "webhook_endpoint.create"
    webhook_update = "webhook_endpoint.update"
    webhook_rotate = "webhook_endpoint.rotate_secret"
    webhook_delete = "webhook_endpoint.delete"
    webhook_replay = "webhook_delivery.replay"
    teacher_key_set = "teacher_key.set"
    teacher_key_delete = "teacher_key.delete"


@dataclass(frozen=True)
class Actor:
    """The author of a change and the request that made it. Without a key, the author is the installation itself."""

    project_id: str
    key_id: str | None = None
    ip: str | None = None
    request_id: str | None = None


def record(
    session: Session,
    actor: Actor,
    action: Action,
    object_id: str,
    *,
    project_id: str | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an entry, unless nothing changed. `project_id` is the project of the object; None means the actor's.

    Raises `RequestInProgress` as `effects.note`.
    """
    if before == after:
        return
    session.add(
        AuditEntry(
            id=ids.audit_id(),
            action=action,
            object_id=object_id,
            project_id=project_id or actor.project_id,
            actor_key_id=actor.key_id,
            actor_project_id=actor.project_id,
            before=before,
            after=after,
            ip=actor.ip,
            request_id=actor.request_id,
        )
    )
    session.flush()
    effects.note(session)


def snapshot(row: object, *names: str) -> dict[str, Any]:
    """Return these columns of a row as JSON values, for `before` and `after`; times are in Unix seconds."""
    values = {name: getattr(row, name) for name in names}
    return {name: int(value.timestamp()) if isinstance(value, datetime) else value for name, value in values.items()}


def list_entries(
    session: Session,
    *,
    after: str | None,
    limit: int,
    project_id: str | None = None,
    action: Action | None = None,
    object_id: str | None = None,
    actor_key_id: str | None = None,
) -> tuple[list[AuditEntry], bool]:
    """Return a page of entries, newest first, and whether more follow. All filters that are not None must match.

    Raises `InvalidRequest` with `param` "after" if `after` is not the id of an entry.
    """
    filters = {
        AuditEntry.project_id: project_id,
        AuditEntry.action: action,
        AuditEntry.object_id: object_id,
        AuditEntry.actor_key_id: actor_key_id,
    }
    statement = select(AuditEntry).where(*(column == value for column, value in filters.items() if value is not None))
    if after is not None:
        seen = session.scalar(select(AuditEntry.seq).where(AuditEntry.id == after))
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        statement = statement.where(AuditEntry.seq < seen)
    rows = session.scalars(statement.order_by(AuditEntry.seq.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit
