"""Resolves every `auto` from the data and the model. All rules for defaults are here."""

import math
from dataclasses import dataclass
from typing import Final

from app.core.spec.job import BASE_LEARNING_RATE, GroupMethod, JobSpec

_REFERENCE_PARAMETERS: Final = 7e9
_MAX_MULTIPLIER: Final = 30.0
TOKEN_BUDGET: Final = 4096
"""Packed tokens of a micro-batch."""
MAX_SEQUENCES: Final = 128
"""Most sequences that a trainer decodes at once; bounds the KV cache."""


@dataclass(frozen=True)
class Plan:
    """Resolved values: no `auto` and no None left."""

    batch_size: int
    """Most prompts of an optimiser step: an epoch's steps differ by at most one prompt."""
    n_epochs: int
    total_steps: int
    learning_rate: float
    learning_rate_multiplier: float
    eval_interval: int
    eval_samples: int
    checkpoint_interval: int


def learning_rate_multiplier(spec: JobSpec, parameters: int) -> float:
    """Return the default multiplier; smaller models need a higher rate.

    Group methods: (7e9 / parameters) ** 0.85, so 1 at 7B, 3.7 at 1.5B and 30 (the cap) at 135M, where 3e-4 learned well
    in tests. The base rate of imitation methods is ten times higher, so their power is only 0.25.
    """
    power = 0.85 if isinstance(spec.settings, GroupMethod) else 0.25
    scaled: float = (_REFERENCE_PARAMETERS / parameters) ** power
    return min(_MAX_MULTIPLIER, max(1.0, scaled))


def resolve(spec: JobSpec, *, rows: int, held_out_rows: int, parameters: int) -> Plan:
    """Return the plan of a job with `rows` usable training rows and a base model of `parameters` weights.

    auto: batch_size is a hundredth of the rows, between 4 and 32; n_epochs aims at 200 steps, between 1 and 10;
    ten evaluations and checkpoints per run; 200 held-out rows.
    """
    wanted = spec.hyperparameters
    batch_size = min(32, max(4, rows // 100)) if wanted.batch_size == "auto" else wanted.batch_size
    batch_size = min(batch_size, rows)
    steps_per_epoch = -(-rows // batch_size)
    n_epochs = min(10, max(1, round(200 / steps_per_epoch))) if wanted.n_epochs == "auto" else wanted.n_epochs
    total = steps_per_epoch * n_epochs
    if wanted.max_steps is not None:
        total = min(total, wanted.max_steps)
    multiplier = wanted.learning_rate_multiplier
    factor = learning_rate_multiplier(spec, parameters) if multiplier == "auto" else multiplier
    tenth = max(1, math.ceil(total / 10))
    return Plan(
        batch_size=batch_size,
        n_epochs=n_epochs,
        total_steps=total,
        learning_rate=BASE_LEARNING_RATE[spec.method] * factor,
        learning_rate_multiplier=factor,
        eval_interval=tenth if wanted.eval_interval == "auto" else wanted.eval_interval,
        eval_samples=min(held_out_rows, 200 if wanted.eval_samples == "auto" else wanted.eval_samples),
        checkpoint_interval=tenth if wanted.checkpoint_interval == "auto" else wanted.checkpoint_interval,
    )
