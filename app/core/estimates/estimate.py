"""What a job will probably take on one device, in three cases in which everything errs together."""

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
"""That a response has besides its text."""
GUESSED_DEVIATION: Final = 0.3
"""Of a shape that was guessed from the number of weights."""


class Range(Frozen):
    """A number that is not known yet; low to high holds it nine times of ten, if the model is right."""

    low: float
    expected: float
    high: float


class Tokens(Frozen):
    """Tokens of the whole job."""

    prompt: Range = Field(description="Of every group's prompt, once.")
    response: Range = Field(description="Of all members of all groups.")
    trained: Range = Field(description="Response tokens that the loss is a mean over.")


class Basis(Frozen):
    """What the estimate rests on."""

    same_jobs: int = Field(description="Finished jobs of this base model on this device.")
    device_jobs: int = Field(description="Finished jobs of other base models on this device.")
    tokens: Literal["characters", "tokenizer"] = Field(description="How the file's tokens were counted.")


class Estimate(Frozen):
    """What a job will probably take."""

    base_model: str
    device: str | None = Field(description="Null when there is no worker to estimate for.")
    steps: int
    groups: int
    rollouts: int
    grader_calls: int = Field(description="Those of evaluations included.")
    teacher_requests: int = Field(description="At most: answers that the project has already are not asked for.")
    tokens: Tokens
    seconds: Range | None = Field(description="From a worker's claim to the end.")
    parts: dict[str, float] | None = Field(
        description="The expected seconds by part: setup, rollout, grading, update and rest (evaluations, checkpoints)."
    )
    peak_memory_bytes: Range | None = Field(description="Of one trainer process.")
    least_memory_bytes: Range | None = Field(
        description="The same with one response a micro-batch: they shrink where memory is short, which is slower."
    )
    based_on: Basis


@dataclass(frozen=True)
class Texts:
    """Mean size of the file's texts; 0 where there are none."""

    prompt: float
    expert: float
    teacher: float
    unit: Literal["characters", "tokens"]

    def lengths(self, factor: float = 1.0) -> Lengths:
        """Mean tokens of what is given, with `factor` times as many tokens a character as usual."""
        if self.unit == "tokens":
            return Lengths(self.prompt, self.expert, self.teacher, 0.0)
        each = factor / CHARACTERS_A_TOKEN
        expert, teacher = ((size * each + END_TOKENS if size else 0.0) for size in (self.expert, self.teacher))
        return Lengths(self.prompt * each, expert, teacher, 0.0)


@dataclass(frozen=True)
class Asked:
    """A job to estimate."""

    spec: JobSpec
    base_model: str
    plan: Plan
    data: Data
    texts: Texts
    shape: Shape


def prior_own(asked: Asked, given: Lengths) -> float:
    """Mean tokens of a rollout: the geometric mean of a given answer's and of `max_tokens`."""
    longest = asked.spec.settings.sampling.max_tokens
    shown = given.expert or given.teacher
    return min(math.sqrt(max(1.0, shown) * longest) if shown else longest / 2, longest)


def estimate(asked: Asked, hardware: Hardware | None, observations: Sequence[Observation]) -> Estimate:
    """The estimate for one device; without one only what does not depend on it."""
    cases = [_Case.of(asked, hardware, observations, z) for z in (-Z, 0.0, Z)]
    expected = cases[1].work
    device = None if hardware is None else hardware.device
    response = _range(*(one.work.response_tokens for one in cases))
    return Estimate(
        base_model=asked.base_model,
        device=device,
        steps=expected.steps,
        groups=expected.groups,
        rollouts=expected.rollouts,
        grader_calls=expected.grader_calls,
        teacher_requests=expected.teacher_requests,
        tokens=Tokens(prompt=_range(*(one.work.prompt_tokens for one in cases)), response=response, trained=response),
        seconds=_range(*(sum(one.seconds.values()) for one in cases)) if hardware else None,
        parts=cases[1].seconds if hardware else None,
        peak_memory_bytes=_range(*(one.memory for one in cases)) if hardware else None,
        least_memory_bytes=_range(*(one.least_memory for one in cases)) if hardware else None,
        based_on=Basis(
            same_jobs=sum(one.device == device and one.base_model == asked.base_model for one in observations),
            device_jobs=sum(one.device == device and one.base_model != asked.base_model for one in observations),
            tokens="characters" if asked.texts.unit == "characters" else "tokenizer",
        ),
    )


@dataclass(frozen=True)
class _Case:
    """Everything `z` standard deviations above what is expected."""

    work: workload.Work
    seconds: dict[str, float]
    memory: float
    least_memory: float

    @classmethod
    def of(cls, asked: Asked, hardware: Hardware | None, observations: Sequence[Observation], z: float) -> "_Case":
        counted = workload.count(asked.spec, asked.plan, asked.data, _lengths(asked, observations, z))
        if hardware is None:
            return cls(counted, {}, 0.0, 0.0)

        def factor(name: str) -> Factor:
            return fit(observations, name, asked.base_model, hardware.device)

        of_it = (asked.spec, counted, asked.shape, hardware)
        return cls(
            counted,
            {
                part: value * _widened(factor(part), asked.shape).at(z)
                for part, value in asdict(cost.seconds(*of_it)).items()
            },
            cost.memory_bytes(*of_it) * factor("memory").at(z),
            cost.least_memory_bytes(*of_it) * factor("memory").at(z),
        )


def _widened(factor: Factor, shape: Shape) -> Factor:
    if shape.is_exact:
        return factor
    return Factor(factor.mean, math.hypot(factor.deviation, GUESSED_DEVIATION))


def _lengths(asked: Asked, observations: Sequence[Observation], z: float) -> Lengths:
    given = asked.texts.lengths(fit(observations, "given_tokens", asked.base_model, None).at(z))
    own = prior_own(asked, given) * fit(observations, "own_tokens", asked.base_model, None).at(z)
    return replace(given, own=min(float(asked.spec.settings.sampling.max_tokens), max(1.0, own)))


def _range(low: float, expected: float, high: float) -> Range:
    return Range(low=low, expected=expected, high=high)
