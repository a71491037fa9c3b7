"""The floating-point operations of a run, so that methods can be compared at equal cost.

    F = N (4 trained + 2 generated + 2 scored)

N is the number of weights. A trained token costs a forward pass (2 N) and the backward pass through a frozen base (2 N:
gradients of activations, none of the base's weights). A generated token, and each token of a prompt that is read before
it, costs a forward pass, and so does each token that a reference model scores (`dpo`). A prompt that answers share is
computed once per group, as the trainer does. Attention scores, the adapter, graders and held-out evaluations are left
out: the first two are below 2 % at these lengths, the others are equal or nearly free.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRAINED, GENERATED, SCORED = 4, 2, 2


@dataclass(frozen=True)
class Tokens:
    """Tokens that passed through the model, prompts included."""

    trained: float = 0.0
    generated: float = 0.0
    scored: float = 0.0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.trained + other.trained, self.generated + other.generated, self.scored + other.scored)

    def flops(self, parameters: int) -> float:
        """Return the floating-point operations of these tokens in a model of this many weights."""
        return parameters * (TRAINED * self.trained + GENERATED * self.generated + SCORED * self.scored)


Series = Mapping[str, Sequence[float | None]]


def job_tokens(metrics: Series, *, rows: int, batch_size: int, rollouts: int, is_paired: bool) -> Tokens:
    """Return the tokens of one job from its metrics by step.

    `rows` are those of the training file, `rollouts` the sampled answers of a group. The steps of an epoch differ by at
    most one prompt, so their mean is used.
    """
    prompts = rows / math.ceil(rows / min(batch_size, rows))
    lengths = _values(metrics, "gft/prompt_length")
    unused = _values(metrics, "frac_reward_zero_std") or [0.0] * len(lengths)
    read = [prompts * (1 - share) * length for share, length in zip(unused, lengths, strict=True)]
    trained = max(_values(metrics, "num_tokens"), default=0.0) + math.fsum(read)
    generated = 0.0
    if rollouts:
        own = _values(metrics, "gft/self/length")
        generated = prompts * math.fsum(length + rollouts * answer for length, answer in zip(lengths, own, strict=True))
    # The reference scores each pair once, before the first step, however often it is trained.
    scored = trained / (prompts * len(lengths)) * rows if is_paired else 0.0
    return Tokens(trained, generated, scored)


def _values(metrics: Mapping[str, Any], name: str) -> list[float]:
    return [float(value) for value in metrics.get(name, ()) if value is not None]
