"""Checks once that an engine really applies an adapter: its log-probs must be those of training.

vLLM can answer with the base model without an error, for example if the names of an adapter's weights do not fit.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, model_validator

from app.core.inference.errors import AdapterCheckFailed

MAX_TOKENS: Final = 64
TOLERANCE: Final = 0.1
"""Largest mean difference of log p, in nats a token, between engine and trainer with the same weights."""
FIXED_IDS: Final = tuple(range(32, 64))
"""Any tokens that every model has, for adapters without a probe."""


class Probe(BaseModel):
    """A prompt, its greedy completion, and log p of each token of the completion in the trainer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """With the adapter."""
    base_logprobs: tuple[float, ...]
    """Without it."""

    @model_validator(mode="after")
    def _check_lengths(self) -> "Probe":
        if not self.prompt_ids or not len(self.completion_ids) == len(self.logprobs) == len(self.base_logprobs) > 0:
            raise ValueError("a probe needs a prompt, and two log-probs for each token of its completion")
        return self

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt_ids + self.completion_ids


@dataclass(frozen=True)
class Distances:
    """Mean absolute differences of log p, in nats a token."""

    to_adapter: float
    """Between the engine and training."""
    to_base: float
    """Between the engine and the base model in training."""
    of_adapter: float
    """Between adapter and base model in training."""


def read(directory: Path) -> Probe | None:
    """Return the probe of an adapter; None for a model that was published without one."""
    try:
        return Probe.model_validate(json.loads((directory / "probe.json").read_bytes()))
    except (OSError, ValueError):
        return None


def distances(probe: Probe, engine: Sequence[float]) -> Distances:
    """Compare log p of each token of `probe.ids` after the first one, as the engine computes it."""
    of_completion = engine[-len(probe.completion_ids) :]
    return Distances(
        _distance(of_completion, probe.logprobs),
        _distance(of_completion, probe.base_logprobs),
        _distance(probe.logprobs, probe.base_logprobs),
    )


def check(found: Distances) -> None:
    """Raises `AdapterCheckFailed` unless the engine's log-probs are those of the adapter.

    An adapter that hardly differs from its base model cannot be distinguished from it: being near to both is enough.
    """
    if found.to_adapter <= TOLERANCE and (found.to_adapter < found.to_base or found.of_adapter <= TOLERANCE):
        return
    nearer = "the base model's" if found.to_base < found.to_adapter else "the adapter's"
    raise AdapterCheckFailed(
        f"The engine does not apply this adapter as it was trained: on the model's probe, its log-probabilities differ "
        f"from those of training by {found.to_adapter:.3f} a token (limit {TOLERANCE:g}), and by {found.to_base:.3f} "
        f"from the base model's; they are nearer to {nearer}. The adapter was unloaded. Check that the engine serves "
        "the base model that the adapter was trained on, in bfloat16, and that its version supports the adapter.",
        param="model",
    )


def check_differs(adapter: Sequence[float], base: Sequence[float]) -> None:
    """Raises `AdapterCheckFailed` if an engine's log-probs with an adapter are exactly those without it."""
    if _distance(adapter, base) == 0:
        raise AdapterCheckFailed(
            "The engine answers with the base model instead of the adapter: with and without it, its log-probabilities "
            f"of {len(FIXED_IDS)} tokens differ by 0. The adapter was unloaded. Check that the engine's version "
            "supports the adapter.",
            param="model",
        )


def _distance(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
