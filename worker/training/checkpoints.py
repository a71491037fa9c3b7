"""Checkpoints: the adapter, AdamW's moments and the step. safetensors and JSON only, no pickle.

Data order, rollouts and dropout are pure functions of (seed, step), so there is no generator state to keep: adapter,
moments and step are everything a run needs to go on bit for bit.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from app.core.spec.reports import TrainerExit
from worker.training.best_adapter import BestAdapter
from worker.training.model import Policy
from worker.training.types import JobFailure

MANIFEST: Final = "manifest.json"
_ADAPTER = "adapter_state.safetensors"
_BEST = "best_adapter.safetensors"
_OPTIMIZER = "optimizer_state.safetensors"
_STATE = "state.json"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(
    directory: Path, policy: Policy, optimizer: torch.optim.Optimizer, state: dict[str, Any], best_adapter: BestAdapter
) -> Path:
    """Writes a checkpoint at `directory`: complete or absent, whenever the process dies.

    Files are written and synced in a temporary directory, the sha256 manifest last, then renamed into place.
    """
    temporary = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in policy.trained.items()}, temporary / _ADAPTER)
    save_file(_moments(policy, optimizer), temporary / _OPTIMIZER)
    if best_adapter.adapter and best_adapter.step != policy.version:
        save_file({name: value.contiguous() for name, value in best_adapter.adapter.items()}, temporary / _BEST)
    whole = state | {"selection": best_adapter.state()}
    (temporary / _STATE).write_text(json.dumps(whole, indent=2), encoding="utf-8")
    digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(digests, indent=2), encoding="utf-8")
    for path in temporary.iterdir():
        _sync(path)
    _sync(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    _sync(directory.parent)
    return directory


def load(
    directory: Path, policy: Policy, optimizer: torch.optim.Optimizer, best_adapter: BestAdapter
) -> dict[str, Any]:
    """Restores adapter, moments and best_adapter in place and returns the state.

    Raises `JobFailure` if a file was damaged.
    """
    damaged = _damaged(directory)
    if damaged is not None:
        raise JobFailure(
            TrainerExit.bad_data, "damaged_checkpoint", f"{damaged} of checkpoint {directory.name} does not match"
        )
    adapter = load_file(directory / _ADAPTER)
    moments = load_file(directory / _OPTIMIZER)
    with torch.no_grad():
        for name, parameter in policy.trained.items():
            parameter.copy_(adapter[name])
            kept = {
                key: moments[f"{name}|{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}|{key}" in moments
            }
            if kept:
                optimizer.state[parameter] = {
                    key: value.to(parameter.device) if key != "step" else value for key, value in kept.items()
                }
    state: dict[str, Any] = json.loads((directory / _STATE).read_text(encoding="utf-8"))
    for name, value in state["selection"].items():
        setattr(best_adapter, name, value)
    if best_adapter.step is not None:
        best = directory / _BEST
        best_adapter.adapter = load_file(best) if best.exists() else adapter
    return state


def _damaged(directory: Path) -> str | None:
    """The first file that is missing or not what the manifest says, the manifest itself included."""
    try:
        digests = dict(json.loads((directory / MANIFEST).read_bytes()))
        expected: dict[str, str] = digests | {name: digests[name] for name in (_ADAPTER, _OPTIMIZER, _STATE)}
    except (OSError, ValueError, KeyError, TypeError):
        return MANIFEST
    for name, digest in expected.items():
        if not (directory / name).is_file() or _sha256(directory / name) != digest:
            return name
    return None


def _moments(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}|{key}": value.detach().cpu().contiguous()
        for name, parameter in policy.trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
