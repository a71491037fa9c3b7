"""Claims on exports to make, and how they end. Another worker can take over a claim that has expired."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.orm import Session

from app.core.exports.tables import UNFINISHED, Export, ExportStatus
from app.core.models.tables import TrainedModel
from app.core.spec.export import ExportFormat, ExportRefusal, Manifest
from app.core.storage.blobs import StoredBlob
from app.core.webhooks import events
from app.core.webhooks.events import EventType

MAX_ATTEMPTS: Final = 3
"""An export that has crashed so often fails."""
_BACKOFF_SECONDS: Final = 5.0
"""After the first crash; three times as long after each further one."""
_CLAIM: Final = text(
    """
    UPDATE exports
    SET status = 'running', attempts = attempts + 1, progress = 0, stage = NULL,
        started_at = coalesce(started_at, now()), claimed_until = now() + make_interval(secs => :seconds)
    WHERE id = (
        SELECT id FROM exports
        WHERE status IN ('queued', 'running') AND (claimed_until IS NULL OR claimed_until < now())
        ORDER BY created_at, id
        FOR UPDATE SKIP LOCKED
        LIMIT 1
    )
    RETURNING id, claimed_until
    """
)


@dataclass(frozen=True)
class ExportClaim:
    """A claim on one export. `until` identifies the claim: each renewal or takeover changes it."""

    export_id: str
    project_id: str
    attempt: int
    format: ExportFormat
    options: dict[str, Any]
    model: str
    base_model: str
    adapter: str
    """Key prefix of the adapter's files in the blob store."""
    secret: bytes | None
    """Encrypted token of the hub to push to."""
    until: datetime

    @property
    def blob(self) -> str:
        """Key of the archive that this attempt writes."""
        return f"exports/{self.export_id}/a{self.attempt}"


def any_due(session: Session) -> bool:
    """Return whether an export is unfinished and no worker holds a claim on it."""
    return session.scalar(select(select(Export.id).where(_is_due()).exists())) is True


def running_among(session: Session, export_ids: Collection[str]) -> set[str]:
    """Return those of the exports that are running."""
    running = select(Export.id).where(Export.id.in_(export_ids), Export.status == ExportStatus.running)
    return set(session.scalars(running))


def claim_next(session: Session, seconds: float, keep: timedelta) -> ExportClaim | None:
    """Claim the oldest export that is due for `seconds`, by the database's clock; None if none is due.

    An export whose last permitted attempt was killed fails instead. `keep` is the time until a failed one expires.
    """
    _fail_crashed(session, keep)
    claimed = session.execute(_CLAIM, {"seconds": seconds}).one_or_none()
    if claimed is None:
        return None
    found = (
        select(Export, TrainedModel).join(TrainedModel, TrainedModel.id == Export.model).where(Export.id == claimed.id)
    )
    export, model = session.execute(found, execution_options={"populate_existing": True}).one()
    return ExportClaim(
        export_id=export.id,
        project_id=export.project_id,
        attempt=export.attempts,
        format=ExportFormat(export.format),
        options=export.options,
        model=model.id,
        base_model=model.base_model,
        adapter=model.blob,
        secret=export.secret,
        until=claimed.claimed_until,
    )


def renew(session: Session, claim: ExportClaim, seconds: float, stage: str, progress: float) -> ExportClaim | None:
    """Extend the claim to `seconds` from now and store the progress.

    Returns None if the export was cancelled or deleted, or another worker took over.
    """
    renewed = session.scalar(
        _held(claim)
        .values(claimed_until=_from_now(seconds), stage=stage[:255], progress=progress)
        .returning(Export.claimed_until),
        execution_options={"synchronize_session": False},
    )
    return None if renewed is None else replace(claim, until=renewed)


def succeed(
    session: Session, claim: ExportClaim, manifest: Manifest, stored: StoredBlob | None, keep: timedelta
) -> bool:
    """Make the result visible; `stored` is its archive, None for a push.

    Returns False, without any change, if the claim is lost.
    """
    return _end(
        session,
        claim,
        ExportStatus.succeeded,
        keep,
        manifest=manifest.model_dump(mode="json"),
        **({} if stored is None else {"blob": claim.blob, "bytes": stored.bytes, "sha256": stored.sha256}),
        progress=1.0,
    )


def fail(session: Session, claim: ExportClaim, refusal: ExportRefusal, keep: timedelta) -> bool:
    """End the export with an error. Returns False, without any change, if the claim is lost."""
    return _end(session, claim, ExportStatus.failed, keep, error=_error(refusal))


def retry_or_fail(session: Session, claim: ExportClaim, refusal: ExportRefusal, keep: timedelta) -> bool:
    """Queue the export again with backoff, or fail it after its last attempt. Returns False if the claim is lost."""
    if claim.attempt >= MAX_ATTEMPTS:
        return fail(session, claim, refusal, keep)
    return _give_back(session, claim, claim.attempt, _BACKOFF_SECONDS * 3 ** (claim.attempt - 1))


def hand_back(session: Session, claim: ExportClaim, seconds: float) -> bool:
    """Queue the export again, without counting the attempt, to be claimed after `seconds`. False if it is lost."""
    return _give_back(session, claim, claim.attempt - 1, seconds)


def _give_back(session: Session, claim: ExportClaim, attempts: int, seconds: float) -> bool:
    returned = _held(claim).values(status=ExportStatus.queued, attempts=attempts, claimed_until=_from_now(seconds))
    return session.scalar(returned.returning(Export.id), execution_options={"synchronize_session": False}) is not None


def _end(session: Session, claim: ExportClaim, status: ExportStatus, keep: timedelta, **values: Any) -> bool:
    values |= {"status": status, "claimed_until": None, "secret": None, "finished_at": func.now()}
    values["expires_at"] = func.now() + keep
    ended = session.scalar(
        _held(claim).values(**values).returning(Export.id), execution_options={"synchronize_session": False}
    )
    if ended is None:
        return False
    _emit(session, claim.project_id, status, ended)
    return True


def _fail_crashed(session: Session, keep: timedelta) -> None:
    """Fail the exports whose last permitted attempt ended with its worker."""
    over = select(Export).where(
        Export.status == ExportStatus.running, Export.claimed_until < func.now(), Export.attempts >= MAX_ATTEMPTS
    )
    for export in session.scalars(over.with_for_update(skip_locked=True)):
        export.status, export.claimed_until, export.finished_at = ExportStatus.failed, None, func.now()
        export.expires_at, export.secret = func.now() + keep, None
        export.error = _error(crashed("its worker was killed"))
        _emit(session, export.project_id, ExportStatus.failed, export.id)
    session.flush()


def crashed(reason: str) -> ExportRefusal:
    """Return the error of an export whose last attempt crashed; `reason` is the end of a sentence."""
    message = f"The export crashed {MAX_ATTEMPTS} times; the last time {reason}. Create it again, or ask an operator."
    return ExportRefusal(code="export_crashed", message=message)


def _error(refusal: ExportRefusal) -> dict[str, Any]:
    return {"code": refusal.code, "message": refusal.message.replace("\0", "")}


def _emit(session: Session, project_id: str, status: ExportStatus, export_id: str) -> None:
    kind = EventType.export_succeeded if status is ExportStatus.succeeded else EventType.export_failed
    events.emit(session, project_id, kind, export_id)


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _is_due() -> ColumnElement[bool]:
    free = or_(Export.claimed_until.is_(None), Export.claimed_until < func.now())
    return and_(Export.status.in_(UNFINISHED), free)


def _held(claim: ExportClaim) -> Any:
    held = Export.id == claim.export_id, Export.status == ExportStatus.running, Export.claimed_until == claim.until
    return update(Export).where(*held)
