"""Exports of a real model with a real subprocess: results, failures, kills and cancellations."""

import io
import json
import os
import re
import signal
import tarfile
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sqlalchemy import func, update

from app.core import broker
from app.core.accounts.audit import Actor
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.exports import claims, orders
from app.core.exports.tables import Export, ExportStatus
from app.core.models.tables import TrainedModel
from app.core.secrets import KeyRing, new_key
from app.core.settings import Settings
from app.core.spec.export import ExportFormat
from app.core.storage.local import LocalBlobStore
from tests import tiny_model
from tests.setup_jobs import make_project, stored_file
from tests.setup_models import stored_model, write_adapter
from tests.waiting import eventually
from tests.worker.conftest import Plant
from tests.worker.test_tasks import trainers
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
    ring: KeyRing = field(default_factory=lambda: KeyRing((new_key(),)))

    def order(self, format: ExportFormat = ExportFormat.merged, **options: Any) -> str:
        with self.database.transaction() as session:
            given = orders.options_of(format, None) | options
            return orders.order(session, Actor(self.project), self.model, format, given)[0].id

    def work(self, drain: Drain | None = None) -> bool:
        return export_one(self.database, self.store, self.settings, self.ring, drain or Drain())

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


def running(workshop: Workshop, export_id: str, drain: Drain | None = None) -> threading.Thread:
    """Work in a thread; return once the subprocess is at work."""
    thread = threading.Thread(target=workshop.work, args=(drain,))
    thread.start()
    eventually(lambda: trainers(export_id))
    return thread


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


def test_damaged_adapter_fails(workshop: Workshop) -> None:
    """Without a subprocess: the digests are checked when the adapter is fetched."""
    with workshop.database.transaction() as session:
        blob = session.get_one(TrainedModel, workshop.model).blob
    path = workshop.store.path(f"{blob}/adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    export_id = workshop.order()
    assert workshop.work()
    error = workshop.export(export_id).error
    assert error is not None
    assert error["code"] == "blob_corrupt"
    assert "adapter_model.safetensors" in error["message"]
    assert workshop.is_clean()


def test_failed_check_says_by_how_much(workshop: Workshop, tmp_path: Path) -> None:
    """A bf16 model with an adapter so large that rounding changes the answers."""
    models = tmp_path / "models"
    base = tiny_model.build(models / "tiny", spread=0.3)
    load(base).to(torch.bfloat16).save_pretrained(base)
    source = write_adapter(base, tmp_path / "large")
    weights = source / "adapter_model.safetensors"
    save_file({name: 2000 * value for name, value in load_file(weights).items()}, weights)
    with workshop.database.transaction() as session:
        model = stored_model(session, workshop.store, workshop.project, source)
    workshop = replace(workshop, model=model, settings=workshop.settings.model_copy(update={"models_dir": models}))
    export_id = workshop.order()
    assert workshop.work()
    export = workshop.export(export_id)
    assert (export.status, export.blob, export.bytes) == (ExportStatus.failed, None, None)
    assert export.error is not None
    assert export.error["code"] == "export_check_failed"
    assert re.search(r"[\d.]+% of their spread, and rounding explains only 12.50%", export.error["message"])
    assert workshop.is_clean()
    assert workshop.order() != export_id  # a failed export is not returned again


def test_export_over_the_quota_fails(workshop: Workshop) -> None:
    with workshop.database.transaction() as session:
        session.get_one(Project, workshop.project).max_stored_bytes = 10_000
    export_id = workshop.order()
    assert workshop.work()
    error = workshop.export(export_id).error
    assert error is not None
    assert error["code"] == "quota_exceeded"
    assert "may store 10,000 (stored_bytes); this export has" in error["message"]
    assert workshop.is_clean()


def test_cancelled_export_stops(workshop: Workshop) -> None:
    export_id = workshop.order()
    thread = running(workshop, export_id)
    with workshop.database.transaction() as session:
        orders.cancel(session, Actor(workshop.project), export_id, timedelta(days=1))
    thread.join(10)
    assert not thread.is_alive()
    eventually(lambda: not trainers(export_id))
    assert workshop.export(export_id).status == ExportStatus.cancelled
    assert workshop.is_clean()


def test_drained_worker_hands_the_export_back(workshop: Workshop) -> None:
    export_id, drain = workshop.order(), Drain()
    thread = running(workshop, export_id, drain)
    drain.begin()
    thread.join(10)
    assert not thread.is_alive()
    export = workshop.export(export_id)
    assert (export.status, export.attempts) == (ExportStatus.queued, 0)


def test_crashes_are_retried_three_times(workshop: Workshop) -> None:
    export_id = workshop.order()
    for attempt in (1, 2, 3):
        assert workshop.export(export_id).status == ExportStatus.queued
        thread = running(workshop, export_id)
        with (workshop.settings.runs_dir / export_id / f"a{attempt}" / "log").open("a") as log:
            log.write("authorization: Bearer hf_abcdefghijklmnopqrst\n")
        for pid in trainers(export_id):
            os.kill(pid, signal.SIGKILL)
        thread.join(10)
        assert workshop.export(export_id).attempts == attempt
        assert not workshop.work()  # backoff
        workshop.end_backoff()
    error = workshop.export(export_id).error
    assert error is not None
    assert error["code"] == "export_crashed"
    assert "killed by SIGKILL" in error["message"]
    assert "Bearer [redacted]" in error["message"]
    assert "hf_abc" not in error["message"]
    assert workshop.is_clean()


def test_leftovers_of_killed_workers_are_removed(workshop: Workshop) -> None:
    cancelled, running = workshop.order(), "export-running"
    with workshop.database.transaction() as session:
        orders.cancel(session, Actor(workshop.project), cancelled, timedelta(days=1))
        export = Export(id=running, project_id=workshop.project, model=workshop.model, format="merged", options={})
        session.add(export)
        session.flush()
        assert claims.claim_next(session, 60, timedelta(days=1))
    for name in (cancelled, running, "export-deleted", "ftjob-1"):
        (workshop.settings.runs_dir / name / "a1").mkdir(parents=True)
    assert not workshop.work()
    assert {path.name for path in workshop.settings.runs_dir.iterdir()} == {running, "ftjob-1"}


def test_killed_worker_is_replaced(plant: Plant, adapter: Path) -> None:
    """Real Celery workers: the subprocess dies with its worker, and another worker makes the export."""
    with plant.database.transaction() as session:
        model = stored_model(session, plant.store, plant.project, adapter)
        options = orders.options_of(ExportFormat.merged, None)
        export_id = orders.order(session, Actor(plant.project), model, ExportFormat.merged, options)[0].id

    def export() -> Export:
        with plant.database.transaction() as session:
            return session.get_one(Export, export_id)

    with plant.default_worker() as worker:
        broker.notify_exports(plant.broker_url)
        eventually(lambda: trainers(export_id))
        worker.kill()
        eventually(lambda: not trainers(export_id))
    assert export().status == ExportStatus.running
    with plant.database.transaction() as session:
        session.execute(update(Export).values(claimed_until=func.now() - func.make_interval(0, 0, 0, 1)))
    with plant.default_worker():
        eventually(lambda: export().status == ExportStatus.succeeded)
    assert export().attempts == 2
    assert plant.store.list("exports") == [f"exports/{export_id}/a2"]
