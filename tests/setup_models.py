"""Inserts a fine-tuned model with a real adapter, without training one."""

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.exports import claims, orders
from app.core.exports.tables import Export
from app.core.files.tables import File
from app.core.jobs import leases, outcomes
from app.core.spec.export import Check, ExportFormat, Manifest, ManifestBase
from app.core.spec.reports import Finished
from app.core.storage.blobs import BlobStore
from tests.setup_jobs import make_job, metrics_csv

_FINISHED: Final = Finished(step=1, path="", trained_tokens=1, published_step=1, reason="the last step")


def write_adapter(base: Path, directory: Path) -> Path:
    """Write a random LoRA adapter of all linear layers."""
    from tests.worker.training.architectures import random_policy  # noqa: PLC0415 - only these tests import torch
    from worker.training.export import save_adapter  # noqa: PLC0415

    directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # PEFT reads a deprecated attribute
        return save_adapter(directory, random_policy(base), base.name)


def stored_model(
    session: Session, store: BlobStore, project_id: str, adapter: Path, *, held_out: File | None = None
) -> str:
    """Insert a succeeded job on the base model `tiny` that published the adapter; return the model's name."""
    job = make_job(session, project_id)
    job.validation_file = None if held_out is None else held_out.id
    session.flush()
    claim = leases.claim(session, "test", 60)
    assert claim is not None
    assert claim.job_id == job.id
    blob = f"jobs/{job.id}/a1/adapter"
    store.put_tree(blob, adapter)
    model = outcomes.succeed(session, claim, _FINISHED, blob, "tiny", metrics_csv())
    assert model is not None
    return model


def manifest_of(model: str) -> Manifest:
    """Return the manifest of an export without files."""
    return Manifest(
        model=model,
        base=ManifestBase(name="tiny", hub_id=None, revision=None),
        format=ExportFormat.merged,
        quantization=None,
        files=(),
        check=Check(compared="x", probes=1, tokens=1, difference=0.0, tolerance=1.0, unit="x"),
        notes=(),
        versions={},
        created_at=0,
    )


def stored_export(session: Session, store: BlobStore, project_id: str, model: str) -> Export:
    """Insert a succeeded export of the model, with an archive of nine bytes."""
    options = orders.options_of(ExportFormat.merged, None)
    ordered, _ = orders.order(session, Actor(project_id), model, ExportFormat.merged, options)
    claim = claims.claim_next(session, 60, timedelta(days=1))
    assert claim is not None
    assert claim.export_id == ordered.id
    stored = store.write(claim.blob, [b"123456789"])
    assert claims.succeed(session, claim, manifest_of(model), stored, timedelta(days=1))
    session.refresh(ordered)
    return ordered
