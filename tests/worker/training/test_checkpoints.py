"""Checkpoints on disk: whole or absent, and refused when damaged. That they resume bit for bit is test_resume's."""

import json
import os
from pathlib import Path

import pytest
import torch

from app.core.spec.reports import Evaluated, TrainerExit
from tests.worker.training.architectures import LORA
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.updates import group, updater
from worker.training import checkpoints
from worker.training.best_adapter import BestAdapter
from worker.training.early_stopping import EarlyStopping
from worker.training.model import Policy, load_policy
from worker.training.optimizer import new_optimizer
from worker.training.types import JobFailure

STATE = {"step": 3, "trained_tokens": 44}


@pytest.fixture
def optimizer(llama: Policy) -> torch.optim.AdamW:
    """With moments of two steps."""
    made = new_optimizer(llama)
    for seed in (1, 2):
        assert updater(llama, made).update([group([1.0, 0.0], seed=seed)], 1e-3).applied
    return made


def test_adapter_moments_and_state_round_trip(
    llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path, model_directory: ModelDirectory
) -> None:
    saved = checkpoints.save(tmp_path / "step-3", llama, optimizer, STATE, BestAdapter())
    fresh = load_policy(model_directory("llama"), LORA, seed=1)
    again = new_optimizer(fresh)
    assert checkpoints.load(saved, fresh, again, BestAdapter()).items() >= STATE.items()
    for name, value in llama.trained.items():
        assert torch.equal(fresh.trained[name], value)
        kept, restored = optimizer.state[value], again.state[fresh.trained[name]]
        assert kept.keys() == restored.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(kept[key], restored[key]) for key in kept)
    updater(llama, optimizer).update([group([1.0, 0.0], seed=5)], 1e-3)
    updater(fresh, again).update([group([1.0, 0.0], seed=5)], 1e-3)
    assert all(torch.equal(fresh.trained[name], value) for name, value in llama.trained.items())


@pytest.mark.parametrize("best_is_current", [True, False])
def test_best_adapter_is_restored(
    best_is_current: bool, llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path, model_directory: ModelDirectory
) -> None:
    best_adapter = BestAdapter(EarlyStopping(patience=4))
    llama.version = 2
    assert best_adapter.take(Evaluated(step=2, values={"eval/reward": 0.5}), llama)
    best = {name: value.detach().clone() for name, value in llama.trained.items()}
    if not best_is_current:
        updater(llama, optimizer).update([group([1.0, 0.0], seed=5)], 1e-3)
        llama.version = 3
        assert not best_adapter.take(Evaluated(step=3, values={"eval/reward": 0.4}), llama)
    saved = checkpoints.save(tmp_path / "step", llama, optimizer, STATE, best_adapter)
    restored, fresh = BestAdapter(EarlyStopping(patience=4)), load_policy(model_directory("llama"), LORA, seed=1)
    checkpoints.load(saved, fresh, new_optimizer(fresh), restored)
    assert restored.state() == best_adapter.state()
    assert restored.state()["stale"] == (0 if best_is_current else 1)
    fresh.version = llama.version
    restored.restore(fresh)
    assert fresh.version == 2
    assert all(torch.equal(fresh.trained[name], value) for name, value in best.items())


def test_damaged_best_adapter_is_rejected(llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path) -> None:
    best_adapter = BestAdapter()
    best_adapter.take(Evaluated(step=2, values={"eval/reward": 0.5}), llama)
    llama.version = 3
    saved = checkpoints.save(tmp_path / "step", llama, optimizer, STATE, best_adapter)
    (saved / "best_adapter.safetensors").unlink()
    _assert_refused(saved, llama, "best_adapter")


def test_manifest_names_every_file(llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path) -> None:
    saved = checkpoints.save(tmp_path / "step-3", llama, optimizer, STATE, BestAdapter())
    manifest = json.loads((saved / checkpoints.MANIFEST).read_text())
    assert {path.name for path in saved.iterdir()} == {*manifest, checkpoints.MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_files_are_synced_before_the_rename(
    llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut there is the whole checkpoint or none."""
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        sync(descriptor)
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"{path.name} becomes {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    saved = checkpoints.save(tmp_path / "step-1", llama, optimizer, STATE, BestAdapter())
    files = {path.name for path in saved.iterdir()}
    assert set(done[: len(files)]) == files
    assert done[len(files) :] == [".step-1.partial", ".step-1.partial becomes step-1", tmp_path.name]


def test_partial_checkpoint_is_overwritten(llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path) -> None:
    (tmp_path / ".step-3.partial").mkdir()
    (tmp_path / ".step-3.partial" / "junk").write_text("x")
    checkpoints.save(tmp_path / "step-3", llama, optimizer, {"step": 2}, BestAdapter())
    saved = checkpoints.save(tmp_path / "step-3", llama, optimizer, STATE, BestAdapter())
    assert not (saved / "junk").exists()
    assert checkpoints.load(saved, llama, new_optimizer(llama), BestAdapter())["step"] == 3


@pytest.mark.parametrize("name", ["adapter_state.safetensors", "optimizer_state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "missing"])
def test_damaged_file_is_rejected_by_name(
    name: str, damage: str, llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path
) -> None:
    saved = checkpoints.save(tmp_path / "step-3", llama, optimizer, STATE, BestAdapter())
    content = bytearray((saved / name).read_bytes())
    content[-3] ^= 1
    (saved / name).unlink()
    if damage != "missing":
        (saved / name).write_bytes(content if damage == "a flipped bit" else content[:-10])
    _assert_refused(saved, llama, name)


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}"])
def test_incomplete_manifest_is_rejected(
    manifest: str | None, llama: Policy, optimizer: torch.optim.AdamW, tmp_path: Path
) -> None:
    saved = checkpoints.save(tmp_path / "step-3", llama, optimizer, STATE, BestAdapter())
    (saved / checkpoints.MANIFEST).unlink()
    if manifest is not None:
        (saved / checkpoints.MANIFEST).write_text(manifest)
    _assert_refused(saved, llama, checkpoints.MANIFEST)


def _assert_refused(saved: Path, policy: Policy, name: str) -> None:
    before = {key: value.detach().clone() for key, value in policy.trained.items()}
    with pytest.raises(JobFailure, match=name) as caught:
        checkpoints.load(saved, policy, new_optimizer(policy), BestAdapter())
    assert (caught.value.exit_code, caught.value.code) == (TrainerExit.bad_data, "damaged_checkpoint")
    assert all(torch.equal(policy.trained[key], value) for key, value in before.items())
