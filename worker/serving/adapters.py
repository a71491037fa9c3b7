"""LoRA adapters from directories in PEFT's format, without PEFT: what they change, and what this engine refuses."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.serving.errors import RequestError, invalid

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_EXPERTS: Final = "target_parameters"
_PARTS: Final = {"lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude"}

_IGNORED: Final = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_type"),
        *("peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "lora_dropout", "bias"),
        *("fan_in_fan_out", "init_lora_weights", "eva_config", "loftq_config", "corda_config", "runtime_config"),
        *("megatron_config", "megatron_core", "ensure_weight_tying", "qalora_group_size", _EXPERTS),
    }
)
"""Fields of the config that this module reads, that the weights' names show, or that matter in training only."""
_UNCHANGED_BASE: Final = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base model's weights as they are."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one linear layer: W' = W + s B A, and with DoRA each row scaled to the norm `magnitude_O`."""

    down_R_I: Tensor
    """A."""
    up_O_R: Tensor
    """B."""
    scaling: float
    magnitude_O: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter in memory, as it is stored. Compared by identity: a name can be loaded again with other weights."""

    name: str
    path: Path
    base: str
    """Name of its base model."""
    layers: Mapping[str, LowRank]
    """By path in the base model, such as `model.layers.0.mlp.up_proj`."""
    is_plain: bool = False
    """It changes parameters of experts, which only PEFT computes (`plain`); `layers` is empty."""
    bound: dict[Any, Any] = field(default_factory=dict)
    """What a loaded base model keeps for this adapter."""


def read_adapter(name: str, directory: Path, base: str) -> Adapter:
    """Read the adapter of a directory.

    Raises `RequestError` with status 404 if a file is missing, and 400 if the engine does not support the adapter.
    """
    try:
        config = json.loads((directory / CONFIG_NAME).read_bytes())
        with safe_open(directory / WEIGHTS_NAME, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise RequestError(
            404, "adapter_not_found", f"{error.filename or directory} does not exist.", "lora_path"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise _refused(f"its files cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise _refused(f"its {CONFIG_NAME} is not an object")
    _check(config)
    if config.get(_EXPERTS):
        return Adapter(name, directory, base, {}, is_plain=True)
    return Adapter(name, directory, base, _layers(config, tensors))


def _refused(reason: str) -> RequestError:
    return invalid(f"The adapter cannot be loaded: {reason}.", "lora_path", "unsupported_adapter")


def _check(config: Mapping[str, Any]) -> None:
    """Refuse everything that changes the model in a way that this engine does not compute."""
    if config.get("peft_type") != "LORA":
        raise _refused(f"its peft_type is {config.get('peft_type')!r}, and only LORA is supported")
    if config.get("init_lora_weights", True) not in _UNCHANGED_BASE:
        raise _refused(f"init_lora_weights {config['init_lora_weights']!r} changes the base model's weights")
    if config.get("bias", "none") != "none":
        raise _refused(f"bias {config['bias']!r} is not supported")
    set_fields = (name for name, value in config.items() if value not in (None, False, [], {}, ""))
    unknown = sorted(name for name in set_fields if name not in _IGNORED)
    if unknown:
        raise _refused(f"{unknown[0]} is not supported")


def _layers(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, LowRank]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, part = _split(key)
        parts.setdefault(path, {})[part] = tensor
    return {path: _low_rank(config, path, found) for path, found in parts.items()}


def _split(key: str) -> tuple[str, str]:
    """Return the layer's path and the part of `LowRank` that a tensor is."""
    name = key.removesuffix(".weight") if key.endswith("lora_magnitude_vector.weight") else key
    for suffix, part in _PARTS.items():
        if key.startswith(_PREFIX) and name.endswith(f".{suffix}"):
            return name[len(_PREFIX) : -len(suffix) - 1], part
    raise _refused(f"it contains {key}, which is no LoRA matrix of a linear layer")


def _low_rank(config: Mapping[str, Any], path: str, found: Mapping[str, Tensor]) -> LowRank:
    down, up = found.get("down"), found.get("up")
    if down is None or up is None or down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise _refused(f"the matrices A and B of {path} are missing or do not fit each other")
    magnitude = found.get("magnitude")
    if bool(config.get("use_dora")) != (magnitude is not None):
        raise _refused(f"use_dora and the weights of {path} contradict each other")
    rank, alpha = (
        _of_pattern(config.get(patterns) or {}, path, config.get(default, 8))
        for patterns, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    if rank != down.shape[0]:
        raise _refused(f"{path} has rank {down.shape[0]}, but {CONFIG_NAME} says {rank}")
    return LowRank(down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), magnitude)


def _of_pattern(patterns: Mapping[str, float], path: str, default: float) -> float:
    """Return the value for a layer, as PEFT finds it: the first pattern that the end of the path matches."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default
