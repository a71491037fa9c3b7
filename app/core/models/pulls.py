"""Pulls: downloads of base models that clients order, workers make, and everybody can follow or cancel.

Base models belong to the installation, so there is at most one pull of each. Another worker can take over an expired
claim.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.errors import NotFound
from app.core.models.registry import BaseModel
from app.core.models.sources import Progress
from app.core.models.tables import UNFINISHED, ModelPull, PullStatus

MAX_ATTEMPTS: Final = 3
"""A pull whose worker was killed so often fails."""
_CLAIM: Final = text(
    """
    UPDATE model_pulls
    SET status = 'running', attempts = attempts + 1, started_at = now(), stage = NULL, done_bytes = NULL,
        total_bytes = NULL, claimed_until = now() + make_interval(secs => :seconds)
    WHERE name = (
        SELECT name FROM model_pulls
        WHERE status IN ('queued', 'running') AND (claimed_until IS NULL OR claimed_until < now())
        ORDER BY created_at, name
        FOR UPDATE SKIP LOCKED
        LIMIT 1
    )
    RETURNING name, hub_id, attempts, claimed_until
    """
)


@dataclass(frozen=True)
class PullClaim:
    """A claim on one pull. `until` identifies the claim: each renewal or takeover changes it."""

    name: str
    hub_id: str
    attempt: int
    until: datetime


def order(session: Session, model: BaseModel) -> tuple[ModelPull, bool]:
    """Return the pull of a model that can be downloaded, and whether it is new; an unfinished one is continued.

    Notify workers of a new one after the commit.
    """
    hub_id = model.entry.hub_id if model.entry else model.name
    fresh: dict[str, Any] = {"status": PullStatus.queued, "attempts": 0, "created_at": func.now()}
    fresh |= dict.fromkeys(
        ("stage", "done_bytes", "total_bytes", "error", "claimed_until", "started_at", "finished_at")
    )
    statement = insert(ModelPull).values(name=model.name, hub_id=hub_id, **fresh)
    added = session.scalar(
        statement.on_conflict_do_update(
            index_elements=[ModelPull.name],
            set_=fresh | {"hub_id": hub_id},
            where=ModelPull.status.not_in(UNFINISHED),
        ).returning(ModelPull.name)
    )
    return session.get_one(ModelPull, model.name, populate_existing=True), added is not None


def list_pulls(session: Session) -> dict[str, ModelPull]:
    """Return the last pull of each model, by its name."""
    return {pull.name: pull for pull in session.scalars(select(ModelPull))}


def cancel(session: Session, name: str) -> ModelPull:
    """Cancel an unfinished pull; its worker stops within seconds. Raises `NotFound` if there is none."""
    pull = session.get(ModelPull, name, with_for_update=True)
    if pull is None or pull.status not in UNFINISHED:
        raise NotFound(f"The base model '{name}' is not being downloaded.", param="model")
    pull.status, pull.claimed_until, pull.finished_at = PullStatus.cancelled, None, func.now()
    session.flush()
    session.refresh(pull)
    return pull


def any_due(session: Session) -> bool:
    """Return whether a pull is unfinished and no worker holds a claim on it."""
    free = (ModelPull.claimed_until.is_(None)) | (ModelPull.claimed_until < func.now())
    return session.scalar(select(select(ModelPull.name).where(ModelPull.status.in_(UNFINISHED), free).exists())) is True


def claim_next(session: Session, seconds: float) -> PullClaim | None:
    """Claim the oldest pull that is due for `seconds`, by the database's clock; None if none is due."""
    while (row := session.execute(_CLAIM, {"seconds": seconds}).one_or_none()) is not None:
        claim = PullClaim(row.name, row.hub_id, row.attempts, row.claimed_until)
        if claim.attempt <= MAX_ATTEMPTS:
            return claim
        settle(session, claim, f"The download was killed {MAX_ATTEMPTS} times with its worker. Ask an operator.")
    return None


def renew(session: Session, claim: PullClaim, seconds: float, progress: Progress) -> PullClaim | None:
    """Extend the claim to `seconds` from now and store the progress. None if it was cancelled or taken over."""
    renewed = session.scalar(
        _held(claim)
        .values(
            claimed_until=_from_now(seconds),
            stage=progress.stage[:255],
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
        )
        .returning(ModelPull.claimed_until),
        execution_options={"synchronize_session": False},
    )
    return None if renewed is None else replace(claim, until=renewed)


def settle(session: Session, claim: PullClaim, error: str | None) -> bool:
    """End the pull, with an error if it failed. Returns False, without any change, if the claim is lost."""
    values = {"status": PullStatus.succeeded if error is None else PullStatus.failed, "error": error}
    return _change(session, claim, **values, claimed_until=None, finished_at=func.now())


def hand_back(session: Session, claim: PullClaim) -> bool:
    """Queue the pull again, without counting the attempt. Returns False if the claim is lost."""
    return _change(session, claim, status=PullStatus.queued, attempts=claim.attempt - 1, claimed_until=None)


def _change(session: Session, claim: PullClaim, **values: Any) -> bool:
    changed = _held(claim).values(**values).returning(ModelPull.name)
    return session.scalar(changed, execution_options={"synchronize_session": False}) is not None


def _held(claim: PullClaim) -> Any:
    return update(ModelPull).where(
        ModelPull.name == claim.name,
        ModelPull.status == PullStatus.running,
        ModelPull.claimed_until == claim.until,
    )


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
