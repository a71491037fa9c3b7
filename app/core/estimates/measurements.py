"""Measurements of finished jobs and their ratio to the prior, which calibrate later estimates."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

from pydantic import Field

from app.core.estimates import cost, workload
from app.core.estimates.calibration import Observation
from app.core.estimates.cost import FORMULA, Seconds
from app.core.estimates.estimate import END_TOKENS, PlannedJob, prior_own
from app.core.estimates.workload import Lengths
from app.core.spec.frozen import Frozen
from app.core.spec.hardware import Hardware

LEAST_SECONDS: float = 0.01
"""Shorter parts count as noise."""


class Measured(Frozen):
    """The measured use of a job."""

    base_model: str
    """The base model."""
    device: str
    """The hardware that the job trained on."""
    steps: int
    """Number of steps that ran."""
    attempts: int
    """Number of times that a worker started the job."""
    seconds: float = Field(description="From the first claim to the end, without the time between attempts.")
    parts: dict[str, float] | None = Field(description="By part; null if the job took several attempts.")
    trained_tokens: int | None
    """Tokens that the loss counted, over all steps."""
    mean_tokens: dict[str, float] = Field(
        description="Mean tokens of one text, by kind: prompt, expert, teacher, own (rollouts)."
    )
    peak_memory_bytes: float | None
    """Memory of one trainer process; null if it was not measured."""
    ratios: dict[str, float] = Field(description="log(measured / prior) by calibrated quantity.")
    formula: int = FORMULA
    """Version of the cost model that the ratios refer to."""

    @property
    def observation(self) -> Observation:
        return Observation(self.base_model, self.device, self.ratios, self.formula)

    @classmethod
    def of(
        cls,
        job: PlannedJob,
        hardware: Hardware,
        *,
        attempts: int,
        seconds: float,
        parts: Seconds | None,
        lengths: Lengths,
        trained_tokens: float | None,
        peak_memory: float | None,
    ) -> "Measured":
        """Add the ratios to the prior for `job`, whose plan has the number of steps that actually ran."""
        return cls(
            base_model=job.base_model,
            device=hardware.device,
            steps=job.plan.total_steps,
            attempts=attempts,
            seconds=seconds,
            parts=None if parts is None else asdict(parts),
            trained_tokens=None if trained_tokens is None else round(trained_tokens),
            mean_tokens=asdict(lengths),
            peak_memory_bytes=peak_memory,
            ratios=ratios(job, hardware, lengths, parts, peak_memory),
        )


def ratios(
    job: PlannedJob, hardware: Hardware, lengths: Lengths, parts: Seconds | None, peak_memory: float | None
) -> dict[str, float]:
    """Return log(measured / expected) for everything that was measured.

    Times and memory are compared with the prior for the actual token counts, so that a file with long answers does not
    look like a slow device.
    """
    counted = workload.count(job.spec, job.plan, job.data, lengths)
    pairs: dict[str, tuple[float, float]] = {}
    if parts is not None:
        expected = asdict(cost.seconds(job.spec, counted, job.shape, hardware))
        pairs |= {
            name: (max(value, LEAST_SECONDS), expected[name])
            for name, value in asdict(parts).items()
            if expected[name] > LEAST_SECONDS
        }
    if peak_memory is not None:
        pairs["memory"] = peak_memory, cost.memory_bytes(job.spec, counted, job.shape, hardware)
    prior = job.texts.lengths()
    if job.texts.unit == "characters":
        pairs["given_tokens"] = _given(lengths, prior), _given(prior, prior)
    if counted.own_a_group:
        pairs["own_tokens"] = lengths.own, prior_own(job, replace(lengths, own=0.0))
    return {
        name: math.log(measured / expected)
        for name, (measured, expected) in pairs.items()
        if measured > 0 and expected > 0
    }


def shortened(job: PlannedJob, steps: int) -> PlannedJob:
    """Return the job with a plan of exactly this many steps; training may have ended early."""
    return replace(job, plan=replace(job.plan, total_steps=steps))


def mean_lengths(job: PlannedJob, means: Mapping[str, float | None]) -> Lengths:
    """Return the measured mean tokens; the prior's value where nothing was measured."""
    given = job.texts.lengths()
    prior = replace(given, own=prior_own(job, given))
    measured = {name: means.get(name) for name in ("prompt", "expert", "teacher", "own")}
    return Lengths(**{name: getattr(prior, name) if value is None else value for name, value in measured.items()})


def _given(lengths: Lengths, prior: Lengths) -> float:
    """Return the mean tokens of one text by kind, without end tokens."""
    answers = [(lengths.expert, prior.expert), (lengths.teacher, prior.teacher)]
    return lengths.prompt + sum(size - END_TOKENS for size, is_there in answers if is_there)
