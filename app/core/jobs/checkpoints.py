"""Checkpoints that lie in the blob store: kept to resume from, and models of their own for other jobs."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.tables import Project
from app.core.jobs.events import dump
from app.core.jobs.leases import Claim
from app.core.webhooks.events import EventType, emit

KEPT_CHECKPOINTS: Final = 2

_CHECKPOINT: Final = text(
    """
    INSERT INTO checkpoints (id, job_id, epoch, step, blob, metrics)
    VALUES (:id, :job_id, :epoch, :step, :blob, CAST(:metrics AS jsonb))
    ON CONFLICT (job_id, step) DO UPDATE
    SET epoch = excluded.epoch, blob = excluded.blob, metrics = excluded.metrics, created_at = now()
    """
)
_CHECKPOINT_MODEL: Final = text(
    """
    INSERT INTO models (id, project_id, job_id, step, base_model, blob, has_adapter)
    SELECT :model, jobs.project_id, jobs.id, :step, :base_model, :blob, :has_adapter FROM jobs WHERE id = :job_id
    ON CONFLICT (id) DO UPDATE SET blob = excluded.blob, has_adapter = excluded.has_adapter
    WHERE models.job_id = excluded.job_id
    """
)
# Whoever creates a job from a checkpoint, or shares it, holds its model's row until that is there to be seen below.
_LOCK_OLD: Final = text(
    """
    SELECT id FROM models
    WHERE job_id = :job_id AND step NOT IN
        (SELECT step FROM checkpoints WHERE job_id = :job_id ORDER BY step DESC LIMIT :kept)
    FOR UPDATE
    """
)
_FORGET_CHECKPOINTS: Final = text(
    """
    WITH wanted AS (
        SELECT step FROM models WHERE job_id = :job_id AND (
            EXISTS (SELECT FROM checkpoint_permissions WHERE model = models.id)
            OR EXISTS (SELECT FROM jobs WHERE spec->>'model' = models.id
                       AND status NOT IN ('succeeded', 'failed', 'cancelled')))
    ), forgotten AS (
        DELETE FROM checkpoints
        WHERE job_id = :job_id AND step NOT IN (SELECT step FROM wanted WHERE step IS NOT NULL) AND step NOT IN
            (SELECT step FROM checkpoints WHERE job_id = :job_id ORDER BY step DESC LIMIT :kept)
        RETURNING step, blob
    ), nameless AS (
        DELETE FROM models WHERE job_id = :job_id AND step IN (SELECT step FROM forgotten)
    )
    SELECT blob FROM forgotten
    """
)


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint whose files lie verified in the blob store."""

    step: int
    blob: str
    metrics: dict[str, float | None]
    has_adapter: bool = False
    """Whether the adapter is among the files in PEFT's format, for other jobs and for downloads."""


def record(session: Session, claim: Claim, stored: StoredCheckpoint) -> list[str]:
    """Writes a checkpoint and its model down and forgets older ones; the caller holds the job's row.

    Returns the blobs that nothing points to any more. Besides the newest checkpoints those stay that are shared or
    that another live job starts from.
    """
    key = {"job_id": claim.job_id, "step": stored.step, "blob": stored.blob}
    session.execute(
        _CHECKPOINT, key | {"id": ids.checkpoint_id(), "epoch": claim.attempt, "metrics": dump(stored.metrics)}
    )
    base_model = ids.base_of(claim.spec.model)
    project = session.scalars(select(Project.name).where(Project.id == claim.project_id)).one()
    model = ids.fine_tuned_model(base_model, project, claim.spec.suffix, claim.job_id)
    name = ids.checkpoint_model(model, stored.step)
    session.execute(
        _CHECKPOINT_MODEL, key | {"model": name, "base_model": base_model, "has_adapter": stored.has_adapter}
    )
    emit(session, claim.project_id, EventType.checkpoint_created, claim.job_id)
    kept = {"job_id": claim.job_id, "kept": KEPT_CHECKPOINTS}
    session.execute(_LOCK_OLD, kept)
    return list(session.scalars(_FORGET_CHECKPOINTS, kept))
