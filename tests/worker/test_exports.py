"""Exports of a real model with a real subprocess: results, failures, kills and cancellations."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from sqlalchemy import func, update

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.exports import orders
from app.core.exports.tables import Export, ExportStatus
from app.core.settings import Settings
from app.core.spec.export import ExportFormat
from app.core.storage.local import LocalBlobStore
from tests.setup_jobs import make_project, stored_file
from tests.setup_models import stored_model, write_adapter
from worker.exports import export_one
from worker.process_control import Drain
from worker.training.merge.model import load

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@dataclass
class Workshop:
    """A project with a fine-tuned model, and a worker for its exports."""

    database: Database
    store: LocalBlobStore
    settings: Settings
    project: str
    model: str

    def order(self, format: ExportFormat = ExportFormat.merged, **options: Any) -> str:
        with self.database.transaction() as session:
            given = orders.options_of(format, None) | options
            return orders.order(session, Actor(self.project), self.model, format, given)[0].id

    def work(self, drain: Drain | None = None) -> bool:
        return export_one(self.database, self.store, self.settings, drain or Drain())

    def export(self, export_id: str) -> Export:
        with self.database.transaction() as session:
            return session.get_one(Export, export_id)

    def end_backoff(self) -> None:
        with self.database.transaction() as session:
            session.execute(update(Export).values(claimed_until=func.now() - func.make_interval(0, 0, 0, 1)))

    def is_clean(self) -> bool:
        """Whether nothing of an attempt is left: no archive, no files of the work."""
        return not self.store.list("exports") and not list(self.settings.runs_dir.iterdir())


@pytest.fixture(scope="module")
def adapter(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny_models / "tiny", tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def workshop(database: Database, tiny_models: Path, adapter: Path, tmp_path: Path) -> Workshop:
    settings = Settings(state_dir=tmp_path / "state", models_dir=tiny_models)
    store = LocalBlobStore(settings.storage_dir)
    with database.transaction() as session:
        project = make_project(session)
        held_out = stored_file(session, store, project, tmp_path)
        model = stored_model(session, store, project, adapter, held_out=held_out)
    return Workshop(database, store, settings, project, model)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def test_merged_model_answers_like_the_adapter(
    workshop: Workshop, tiny_models: Path, adapter: Path, tmp_path: Path
) -> None:
    export_id = workshop.order()
    assert workshop.work()
    export = workshop.export(export_id)
    assert (export.status, export.error, export.progress) == (ExportStatus.succeeded, None, 1.0)
    assert export.blob is not None
    archive = workshop.store.path(export.blob).read_bytes()
    assert len(archive) == export.bytes
    assert workshop.store.digest(export.blob) == export.sha256
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "merged", filter="data")
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert manifest == export.manifest
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        file["path"] for file in manifest["files"]
    }
    check = manifest["check"]
    assert check["probes"] == 8
    assert 0 < check["difference"] < check["tolerance"]
    base = load(tiny_models / "tiny")
    merged = logits(load(tmp_path / "merged"))
    before = logits(base)
    assert torch.allclose(merged, logits(PeftModel.from_pretrained(base, str(adapter))), atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    assert not workshop.work()
