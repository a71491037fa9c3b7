"""Resolves every `auto` from the data and the model. All rules for defaults are here."""

import math
from dataclasses import dataclass
from typing import Final

from app.core.spec.job import BASE_LEARNING_RATE, GroupMethod, ImitationMethod, JobSpec, PreferenceMethod, Settings

_REFERENCE_PARAMETERS: Final = 7e9
_POWER: Final[dict[type[Settings], float]] = {GroupMethod: 0.85, PreferenceMethod: 0.5, ImitationMethod: 0.25}
_MAX_MULTIPLIER: Final = 30.0
_TARGET_EPOCHS: Final = 3
_MIN_EXAMPLES: Final = 100
_MAX_EXAMPLES: Final = 25_000
_MAX_EPOCHS: Final = 25
TOKEN_BUDGET: Final = 4096
"""Most packed tokens of a micro-batch on a CPU, and the least of these limits on a GPU."""
_MAX_TOKEN_BUDGET: Final = 32_768
_BUDGET_SHARE: Final = 0.5
"""Part of a GPU's free memory for the activations of a micro-batch; rollouts and fragments need some, too."""
MAX_SEQUENCES: Final = 128
"""Most sequences that a trainer decodes at once; bounds the KV cache."""
MIN_SPLIT_ROWS: Final = 20
"""Fewer held-out rows are not split into a half that selects and a half that reports."""


def activation_bytes(layers: int, hidden: int, intermediate: int, width: int) -> int:
    """Return the bytes that a packed token keeps for the backward pass, with numbers of `width` bytes."""
    return layers * (10 * hidden + 3 * intermediate) * width


def token_budget(free_bytes: float | None, token_bytes: float) -> int:
    """Return the most packed tokens of a micro-batch, each of which keeps `token_bytes` for the backward pass.

    `free_bytes` is the free memory of the GPU, None on a CPU. More tokens at once keep a large GPU busy with a small
    model; a CPU gains nothing from them.
    """
    if free_bytes is None:
        return TOKEN_BUDGET
    return int(min(_MAX_TOKEN_BUDGET, max(TOKEN_BUDGET, _BUDGET_SHARE * free_bytes / token_bytes)))


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
    """Most rows of a held-out file that are evaluated."""
    checkpoint_interval: int


def learning_rate_multiplier(spec: JobSpec, parameters: int) -> float:
    """Return the default multiplier; smaller models need a higher rate.

    Group methods: (7e9 / parameters) ** 0.85, so 1 at 7B, 3.7 at 1.5B and 30 (the cap) at 135M, where 3e-4 learned well
    in tests. The base rate of imitation methods is ten times higher, so their power is only 0.25. dpo has the base rate
    of group methods; its power of 0.5 gives 7e-5 at 135M.
    """
    power = _POWER[type(spec.settings)]
    scaled: float = (_REFERENCE_PARAMETERS / parameters) ** power
    return min(_MAX_MULTIPLIER, max(1.0, scaled))


def _epochs(spec: JobSpec, rows: int, steps_per_epoch: int) -> int:
    """Return the default number of epochs.

    Group methods write new answers in every epoch, so they aim at 200 steps, with 1 to 10 epochs. Other methods repeat
    the same answers and take OpenAI's published rule (its cookbook, "Data preparation and analysis for chat model
    fine-tuning"): 3 epochs, more for files that would give fewer than 100 examples, fewer above 25,000 examples.
    """
    if isinstance(spec.settings, GroupMethod):
        return min(10, max(1, round(200 / steps_per_epoch)))
    if rows * _TARGET_EPOCHS < _MIN_EXAMPLES:
        return min(_MAX_EPOCHS, _MIN_EXAMPLES // rows)
    if rows * _TARGET_EPOCHS > _MAX_EXAMPLES:
        return max(1, _MAX_EXAMPLES // rows)
    return _TARGET_EPOCHS


def resolve(spec: JobSpec, *, rows: int, parameters: int, budget: Plan | None = None) -> Plan:
    """Return the plan of a job with `rows` usable training rows and a base model of `parameters` weights.

    Of a mixture of experts `parameters` are those that compute a token. `budget` is the plan of the job that a control
    is compared with: the control takes as many steps with as many prompts, and repeats its rows if it has fewer.

    auto: batch_size is a hundredth of the rows, between 4 and 32; n_epochs see `_epochs`; ten evaluations and
    checkpoints per run; 200 held-out rows.
    """
    wanted = spec.hyperparameters
    batch_size = min(32, max(4, rows // 100)) if wanted.batch_size == "auto" else wanted.batch_size
    batch_size = min(batch_size, rows)
    steps_per_epoch = -(-rows // batch_size)
    n_epochs = _epochs(spec, rows, steps_per_epoch) if wanted.n_epochs == "auto" else wanted.n_epochs
    total = steps_per_epoch * n_epochs
    if wanted.max_steps is not None:
        total = min(total, wanted.max_steps)
    if budget is not None:
        batch_size, total = min(budget.batch_size, rows), budget.total_steps
        n_epochs = math.ceil(total / -(-rows // batch_size))
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
        eval_samples=200 if wanted.eval_samples == "auto" else wanted.eval_samples,
        checkpoint_interval=tenth if wanted.checkpoint_interval == "auto" else wanted.checkpoint_interval,
    )
