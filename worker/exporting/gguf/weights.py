"""Reads the weights of a base model and its LoRA adapter, one tensor at a time, in float32."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import safe_open

from app.core.spec.export import ExportRefused

Array = np.ndarray

_PREFIX: Final = "base_model.model."
_HALVES: Final = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_embedding_A": "down",
    ".lora_embedding_B": "up",
}


class BaseWeights:
    """The tensors of a model's safetensors files, read when they are needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = ExitStack()
        self._where: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Open the files. Raises `ExportRefused` if there are none."""
        paths = sorted(self._directory.glob("*.safetensors"))
        if not paths:
            raise ExportRefused("export_refused", f"{self._directory.name} has no safetensors files.")
        for path in paths:
            file = self._files.enter_context(safe_open(path, framework="pt"))
            self._where |= dict.fromkeys(file.keys(), file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return tuple(self._where[name].get_slice(name).get_shape())

    def read(self, name: str) -> Array:
        """Return a tensor in float32."""
        array: Array = self._where[name].get_tensor(name).to(torch.float32).numpy()
        return array


@dataclass(frozen=True)
class LoraPair:
    """The change of one weight: scaling * up @ down; of an embedding: its transpose."""

    down_R_I: Array
    up_O_R: Array
    scaling: float
    is_embedding: bool

    def delta(self) -> Array:
        """Return the change, in the weight's shape."""
        product: Array = self.scaling * (self.up_O_R @ self.down_R_I)
        return product.T if self.is_embedding else product


def read_adapter(directory: Path) -> dict[str, LoraPair]:
    """Return the changes of an adapter by the name of the base model's weight.

    Raises `ExportRefused` for what is no plain LoRA: DoRA, trained biases, fully trained modules.
    """
    config: Any = LoraConfig.from_pretrained(str(directory))
    halves: dict[str, dict[str, Array]] = {}
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
            module, half = _split(key)
            halves.setdefault(module, {})[half] = file.get_tensor(key).to(torch.float32).numpy()
            halves[module].setdefault("is_embedding", np.asarray("embedding" in key))
    return {
        f"{module}.weight": LoraPair(
            parts["down"], parts["up"], _scaling(config, module, parts["down"]), bool(parts["is_embedding"])
        )
        for module, parts in halves.items()
    }


def _split(key: str) -> tuple[str, str]:
    """Return the module and the half of a pair that an adapter's tensor belongs to."""
    for ending, half in _HALVES.items():
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key[len(_PREFIX) : -len(ending)], half
    raise ExportRefused(
        "export_unsupported_adapter",
        f"The adapter is not a plain LoRA adapter: it has the tensor {key}. DoRA, trained biases and fully trained "
        "modules have no counterpart in GGUF. Export the model as `merged` instead.",
    )


def _scaling(config: Any, module: str, down_R_I: Array) -> float:
    """Return PEFT's factor of a pair, with its patterns for single modules."""
    patterns: dict[str, float] = config.alpha_pattern or {}
    alpha: float = patterns.get(get_pattern_key(list(patterns), module), config.lora_alpha)
    rank = down_R_I.shape[0]
    return float(alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)
