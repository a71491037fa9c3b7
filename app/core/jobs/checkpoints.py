"""Stored checkpoints: jobs resume from them, and other jobs can start from them as models."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.tables import Project
from app.core.errors import NotFound
from app.core.jobs.events import dump
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Checkpoint
from app.core.models.tables import TrainedModel
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
# A transaction that creates a job from a checkpoint, or shares it, holds the row of the checkpoint's model. Locking the
# old rows first waits for such transactions, so that the next statement sees their job or permission.
_LOCK_OLD: Final = text(
    """
    SELECT id FROM models
    WHERE job_id = :job_id AND step NOT IN
        (SELECT step FROM checkpoints WHERE job_id = :job_id ORDER BY step DESC LIMIT :kept)
    FOR UPDATE
    """
)
# `in_use` are checkpoints that are shared or that an unfinished job starts from: they stay, as do the newest ones. The
# models of the deleted checkpoints go with them.
_DELETE_OLD: Final = text(
    """
    WITH in_use AS (
        SELECT step FROM models WHERE job_id = :job_id AND (
            EXISTS (SELECT FROM checkpoint_permissions WHERE model = models.id)
            OR EXISTS (SELECT FROM jobs WHERE spec->>'model' = models.id
                       AND status NOT IN ('succeeded', 'failed', 'cancelled')))
    ), deleted AS (
        DELETE FROM checkpoints
        WHERE job_id = :job_id AND step NOT IN (SELECT step FROM in_use WHERE step IS NOT NULL) AND step NOT IN
            (SELECT step FROM checkpoints WHERE job_id = :job_id ORDER BY step DESC LIMIT :kept)
        RETURNING step, blob
    ), deleted_models AS (
        DELETE FROM models WHERE job_id = :job_id AND step IN (SELECT step FROM deleted)
    ), removed AS (
        INSERT INTO removed_checkpoints (job_id, step) SELECT :job_id, step FROM deleted
        ON CONFLICT (job_id, step) DO UPDATE SET removed_at = now()
    )
    SELECT blob FROM deleted
    """
)


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint whose files are verified in the blob store."""

    step: int
    blob: str
    metrics: dict[str, float | None]
    has_adapter: bool = False
    """Whether the files include the adapter in PEFT's format, for other jobs and for downloads."""


def record(session: Session, claim: Claim, stored: StoredCheckpoint) -> list[str]:
    """Store a checkpoint and its model, and delete older checkpoints. The caller holds the job's row.

    Kept are the newest checkpoints, and those that are shared or that an unfinished job starts from. Returns the blobs
    of the deleted checkpoints.
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
    return list(session.scalars(_DELETE_OLD, kept))


def model_of(session: Session, project_id: str, job_id: str, checkpoint_id: str) -> TrainedModel:
    """Return the model that a checkpoint of the project's job is. Raises `NotFound`."""
    model = session.scalars(
        select(TrainedModel)
        .join(Checkpoint, (Checkpoint.job_id == TrainedModel.job_id) & (Checkpoint.step == TrainedModel.step))
        .where(Checkpoint.id == checkpoint_id, Checkpoint.job_id == job_id, TrainedModel.project_id == project_id)
    ).one_or_none()
    if model is None:
        raise NotFound(f"The job '{job_id}' has no checkpoint '{checkpoint_id}'. A job keeps its newest ones.")
    return model
