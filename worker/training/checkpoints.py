"""Checkpoints: the adapter, AdamW's moments and the step, as safetensors and JSON, never pickle.

Data order, rollouts and dropout are pure functions of (seed, step), so no generator state is stored: adapter, moments
and step, and of dpo jobs the reference's log-probabilities, are all that a run needs to resume bit for bit.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from app.core.paths import exists, is_file
from app.core.spec.reports import TrainerExit
from worker.training.best_adapter import BestAdapter
from worker.training.model import Policy
from worker.training.reference import Reference
from worker.training.types import JobFailure

MANIFEST: Final = "manifest.json"
_ADAPTER = "adapter_state.safetensors"
_BEST = "best_adapter.safetensors"
_OPTIMIZER = "optimizer_state.safetensors"
_REFERENCE = "reference.safetensors"
_STATE = "state.json"
_NEEDED: Final = (_ADAPTER, _OPTIMIZER, _STATE)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(
    directory: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    best_adapter: BestAdapter,
    reference: Reference | None = None,
    *,
    export: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Writes a checkpoint to `directory` and returns it. After a crash the checkpoint is complete or absent.

    `export` adds the adapter in PEFT's format, which resuming does not need.
    Files are written to a temporary directory with a sha256 manifest, synced, and the directory is renamed into place.
    """
    temporary = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in policy.trained.items()}, temporary / _ADAPTER)
    save_file(_moments(policy, optimizer), temporary / _OPTIMIZER)
    if best_adapter.adapter and best_adapter.step != policy.version:
        save_file({name: value.contiguous() for name, value in best_adapter.adapter.items()}, temporary / _BEST)
    if reference is not None:
        save_file(reference.state(), temporary / _REFERENCE)
    whole = state | {"selection": best_adapter.state()}
    (temporary / _STATE).write_text(json.dumps(whole, indent=2), encoding="utf-8")
    export(temporary)
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
    directory: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    best_adapter: BestAdapter,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Restores adapter, AdamW moments, best adapter and reference in place and returns the state.

    Raises `JobFailure` if a file is damaged or missing; nothing is restored then.
    """
    damaged = _damaged(directory, _NEEDED if reference is None else (*_NEEDED, _REFERENCE))
    if damaged is not None:
        raise JobFailure(
            TrainerExit.bad_data,
            "damaged_checkpoint",
            f"Checkpoint {directory.name} is damaged: {damaged} is missing or does not match its sha256",
        )
    adapter = load_file(directory / _ADAPTER)
    moments = load_file(directory / _OPTIMIZER)
    with torch.no_grad():
        for name, parameter in policy.trained.items():
            parameter.copy_(adapter[name])
            stored = {key: moments[f"{name}|{key}"] for key in _MOMENTS if f"{name}|{key}" in moments}
            if stored:
                optimizer.state[parameter] = {
                    # The fused AdamW counts its steps on the device.
                    key: value.to(parameter.device) if key != "step" or optimizer.defaults["fused"] else value
                    for key, value in stored.items()
                }
    if reference is not None:
        reference.load_state(load_file(directory / _REFERENCE))
    state: dict[str, Any] = json.loads((directory / _STATE).read_text(encoding="utf-8"))
    best_adapter.load_state(state["selection"])
    if best_adapter.step is not None:
        best = directory / _BEST
        best_adapter.adapter = load_file(best) if exists(best) else adapter
    return state


def _damaged(directory: Path, needed: Sequence[str]) -> str | None:
    """Returns the name of the first file that is missing or differs from the manifest (which may be the manifest)."""
    try:
        digests = dict(json.loads((directory / MANIFEST).read_bytes()))
        expected: dict[str, str] = digests | {name: digests[name] for name in needed}
    except (OSError, ValueError, KeyError, TypeError):
        return MANIFEST
    for name, digest in expected.items():
        if not is_file(directory / name) or _sha256(directory / name) != digest:
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
