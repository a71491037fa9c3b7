"""Estimates a job on one device, in three cases (low, expected, high) in which all errors point the same way."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

from pydantic import Field

from app.core.estimates import cost, workload
from app.core.estimates.calibration import Factor, Observation, Z, fit
from app.core.estimates.workload import Data, Lengths
from app.core.models.shape import Shape
from app.core.spec.frozen import Frozen
from app.core.spec.hardware import Hardware
from app.core.spec.job import JobSpec
from app.core.spec.plan import Plan

CHARACTERS_A_TOKEN: Final = 4.0
END_TOKENS: Final = 1
"""Tokens of a response in addition to its text."""
GUESSED_DEVIATION: Final = 0.3
"""Additional spread for a shape that was guessed from the number of weights."""


class Range(Frozen):
    """An uncertain number: low to high covers 90 % of the cases, if the model is right."""

    low: float
    """The lower end."""
    expected: float
    """The most likely value."""
    high: float
    """The upper end."""


class Tokens(Frozen):
    """Tokens of the whole job."""

    prompt: Range = Field(description="Prompt tokens; the prompt of each group counts once.")
    response: Range = Field(description="Tokens of all members of all groups.")
    trained: Range = Field(description="Tokens of all answers that count in the loss, once per step.")


class Basis(Frozen):
    """The data behind the estimate."""

    same_jobs: int = Field(description="Number of finished jobs of this base model on this device.")
    device_jobs: int = Field(description="Number of finished jobs of other base models on this device.")
    tokens: Literal["characters", "tokenizer"] = Field(description="How the file's tokens were counted.")
    passing_share: float | None = Field(
        default=None,
        description="Share of the demonstrations that pass the grader, for jobs that train only those. Null for other "
        "jobs, and while the share is not known: then all demonstrations count.",
    )


class Estimate(Frozen):
    """The estimate of a job."""

    base_model: str
    """The base model."""
    device: str | None = Field(description="Null if no training worker is available.")
    steps: int
    """Number of optimiser steps."""
    groups: int
    """Groups of all steps."""
    rollouts: int
    """Rollouts of all steps."""
    grader_calls: int = Field(description="Including those of evaluations.")
    teacher_requests: int = Field(description="An upper bound: stored answers of the project are not requested again.")
    tokens: Tokens
    """Tokens of the whole job."""
    seconds: Range | None = Field(description="From a worker's claim to the end.")
    parts: dict[str, float] | None = Field(
        description="Expected seconds by part: setup, rollout, grading, update and rest (evaluations, checkpoints)."
    )
    peak_memory_bytes: Range | None = Field(description="Memory of one trainer process.")
    least_memory_bytes: Range | None = Field(
        description="With one response per micro-batch: micro-batches shrink if memory is short, which is slower."
    )
    based_on: Basis
    """The data behind the estimate."""


@dataclass(frozen=True)
class Texts:
    """Mean size of the file's texts; 0 without texts."""

    prompt: float
    expert: float
    teacher: float
    unit: Literal["characters", "tokens"]

    def lengths(self, factor: float = 1.0) -> Lengths:
        """Return the mean tokens of the given texts, for `factor` times the usual tokens per character."""
        if self.unit == "tokens":
            return Lengths(self.prompt, self.expert, self.teacher, 0.0)
        each = factor / CHARACTERS_A_TOKEN
        expert, teacher = ((size * each + END_TOKENS if size else 0.0) for size in (self.expert, self.teacher))
        return Lengths(self.prompt * each, expert, teacher, 0.0)


@dataclass(frozen=True)
class PlannedJob:
    """A job to estimate."""

    spec: JobSpec
    base_model: str
    plan: Plan
    data: Data
    texts: Texts
    shape: Shape
    passing_share: float | None = None
    """That of `Basis`."""


def prior_own(job: PlannedJob, given: Lengths) -> float:
    """Return the mean tokens of a rollout: the geometric mean of a given answer's length and `max_tokens`."""
    longest = job.spec.settings.sampling.max_tokens
    shown = given.expert or given.teacher
    return min(math.sqrt(max(1.0, shown) * longest) if shown else longest / 2, longest)


def estimate(job: PlannedJob, hardware: Hardware | None, observations: Sequence[Observation]) -> Estimate:
    """Return the estimate for one device; without a device, only what does not depend on it."""
    cases = [_Case.of(job, hardware, observations, z) for z in (-Z, 0.0, Z)]
    expected = cases[1].work
    device = None if hardware is None else hardware.device
    response = _range(*(case.work.response_tokens for case in cases))
    return Estimate(
        base_model=job.base_model,
        device=device,
        steps=expected.steps,
        groups=expected.groups,
        rollouts=expected.rollouts,
        grader_calls=expected.grader_calls,
        teacher_requests=expected.teacher_requests,
        tokens=Tokens(prompt=_range(*(case.work.prompt_tokens for case in cases)), response=response, trained=response),
        seconds=_range(*(sum(case.seconds.values()) for case in cases)) if hardware else None,
        parts=cases[1].seconds if hardware else None,
        peak_memory_bytes=_range(*(case.memory for case in cases)) if hardware else None,
        least_memory_bytes=_range(*(case.least_memory for case in cases)) if hardware else None,
        based_on=Basis(
            same_jobs=sum(seen.device == device and seen.base_model == job.base_model for seen in observations),
            device_jobs=sum(seen.device == device and seen.base_model != job.base_model for seen in observations),
            tokens="characters" if job.texts.unit == "characters" else "tokenizer",
            passing_share=job.passing_share,
        ),
    )


@dataclass(frozen=True)
class _Case:
    """All quantities at `z` standard deviations above the expectation."""

    work: workload.Work
    seconds: dict[str, float]
    memory: float
    least_memory: float

    @classmethod
    def of(cls, job: PlannedJob, hardware: Hardware | None, observations: Sequence[Observation], z: float) -> "_Case":
        counted = workload.count(job.spec, job.plan, job.data, _lengths(job, observations, z))
        if hardware is None:
            return cls(counted, {}, 0.0, 0.0)

        def factor(name: str) -> Factor:
            return fit(observations, name, job.base_model, hardware.device)

        inputs = (job.spec, counted, job.shape, hardware)
        return cls(
            counted,
            {
                part: value * _widened(factor(part), job.shape).at(z)
                for part, value in asdict(cost.seconds(*inputs)).items()
            },
            cost.memory_bytes(*inputs) * factor("memory").at(z),
            cost.least_memory_bytes(*inputs) * factor("memory").at(z),
        )


def _widened(factor: Factor, shape: Shape) -> Factor:
    if shape.is_exact:
        return factor
    return Factor(factor.mean, math.hypot(factor.deviation, GUESSED_DEVIATION))


def _lengths(job: PlannedJob, observations: Sequence[Observation], z: float) -> Lengths:
    given = job.texts.lengths(fit(observations, "given_tokens", job.base_model, None).at(z))
    own = prior_own(job, given) * fit(observations, "own_tokens", job.base_model, None).at(z)
    return replace(given, own=min(float(job.spec.settings.sampling.max_tokens), max(1.0, own)))


def _range(low: float, expected: float, high: float) -> Range:
    return Range(low=low, expected=expected, high=high)
