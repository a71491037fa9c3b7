"""Calibration of the prior with finished jobs: normal distributions over log ratios, by model and device.

    log(measured / expected) = device + model on that device + job

Each term is normal with mean 0. Jobs of other models on the same device narrow the estimate a little, jobs of the
same model on the same device narrow it much. Without any jobs, the prior's own spread remains.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.estimates.cost import FORMULA

Z: Final = 1.645
"""Half-width of a 90 % interval of a normal distribution, in standard deviations."""
NOISE_JOBS: Final = 4
"""Weight of the prior's spread between jobs, in jobs."""


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
"""By calibrated quantity: the parts of the time, the memory, the tokens of given texts and of rollouts."""


@dataclass(frozen=True)
class Observation:
    """The observations of one finished job."""

    base_model: str
    device: str
    ratios: Mapping[str, float]
    """log(measured / expected) by calibrated quantity."""
    formula: int = FORMULA


@dataclass(frozen=True)
class Factor:
    """A log-normal factor on the prior."""

    mean: float
    deviation: float

    def at(self, z: float) -> float:
        """Return the factor `z` standard deviations above its median."""
        return math.exp(self.mean + z * self.deviation)


def fit(observations: Sequence[Observation], name: str, base_model: str, device: str | None) -> Factor:
    """Return the factor for the next job of `base_model` on `device`; `device` is None for token counts."""
    prior = PRIOR[name]
    by_model: dict[str, list[float]] = {}
    for job in observations:
        if device in (None, job.device) and job.formula == FORMULA and name in job.ratios:
            by_model.setdefault(job.base_model, []).append(job.ratios[name])
    own = by_model.pop(base_model, [])
    noise = _noise(prior, [*by_model.values(), own])
    # Estimate the device's term from the mean of each other model.
    precision, weighted = 1 / prior.device**2, 0.0
    for ratios in by_model.values():
        weight = 1 / (prior.model**2 + noise / len(ratios))
        precision += weight
        weighted += weight * sum(ratios) / len(ratios)
    mean, variance = weighted / precision, 1 / precision + prior.model**2
    if own:
        posterior = 1 / (1 / variance + len(own) / noise)
        mean, variance = posterior * (mean / variance + sum(own) / noise), posterior
    return Factor(mean, math.sqrt(variance + noise))


def _noise(prior: Spread, groups: Sequence[Sequence[float]]) -> float:
    """Return the variance between equal jobs: the prior's, weighted against the number of observed jobs."""
    squares, degrees = NOISE_JOBS * prior.job**2, NOISE_JOBS
    for seen in groups:
        if len(seen) > 1:
            centre = sum(seen) / len(seen)
            squares += sum((value - centre) ** 2 for value in seen)
            degrees += len(seen) - 1
    return squares / degrees
