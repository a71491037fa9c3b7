"""How far the prior is off, learnt from finished jobs: normal distributions over log ratios, by model and device.

    log(measured / expected) = device + model on that device + job

Each term is normal with mean 0. What is known of a device from other models narrows the answer a little, jobs of the
same model on the same device narrow it much, and without any the prior's own spread stays.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.estimates.cost import FORMULA

Z: Final = 1.645
"""Standard deviations that hold 90 % of a normal distribution between minus and plus."""
NOISE_JOBS: Final = 4
"""How many jobs the prior's idea of the spread between jobs is worth."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the three terms."""

    device: float
    model: float
    job: float


PRIOR: Final = {
    "setup": Spread(0.6, 0.3, 0.3),
    "rollout": Spread(0.8, 0.35, 0.25),
    "grading": Spread(1.0, 0.4, 0.5),
    "update": Spread(0.7, 0.35, 0.2),
    "rest": Spread(0.8, 0.4, 0.4),
    "memory": Spread(0.2, 0.12, 0.06),
    "given_tokens": Spread(0.3, 0.1, 0.1),
    "own_tokens": Spread(0.5, 0.3, 0.35),
}
"""Of what is fitted: the parts of the time, the memory, the tokens of given texts and those of rollouts."""


@dataclass(frozen=True)
class Observation:
    """What one finished job says."""

    base_model: str
    device: str
    ratios: Mapping[str, float]
    """log(measured / expected), by what is fitted."""
    formula: int = FORMULA


@dataclass(frozen=True)
class Factor:
    """A log-normal factor on the prior."""

    mean: float
    deviation: float

    def at(self, z: float) -> float:
        """The factor `z` standard deviations above its median."""
        return math.exp(self.mean + z * self.deviation)


def fit(observations: Sequence[Observation], name: str, base_model: str, device: str | None) -> Factor:
    """The factor for the next job of `base_model` on `device`; None for what does not depend on it."""
    prior = PRIOR[name]
    by_model: dict[str, list[float]] = {}
    for one in observations:
        if device in (None, one.device) and one.formula == FORMULA and name in one.ratios:
            by_model.setdefault(one.base_model, []).append(one.ratios[name])
    own = by_model.pop(base_model, [])
    noise = _noise(prior, [*by_model.values(), own])
    # The device's term, seen through each other model's mean.
    precision, weighted = 1 / prior.device**2, 0.0
    for seen in by_model.values():
        weight = 1 / (prior.model**2 + noise / len(seen))
        precision += weight
        weighted += weight * sum(seen) / len(seen)
    mean, variance = weighted / precision, 1 / precision + prior.model**2
    if own:
        posterior = 1 / (1 / variance + len(own) / noise)
        mean, variance = posterior * (mean / variance + sum(own) / noise), posterior
    return Factor(mean, math.sqrt(variance + noise))


def _noise(prior: Spread, groups: Sequence[Sequence[float]]) -> float:
    """Variance between jobs that are alike: the prior's, and as many jobs as there are."""
    squares, degrees = NOISE_JOBS * prior.job**2, NOISE_JOBS
    for seen in groups:
        if len(seen) > 1:
            centre = sum(seen) / len(seen)
            squares += sum((value - centre) ** 2 for value in seen)
            degrees += len(seen) - 1
    return squares / degrees
