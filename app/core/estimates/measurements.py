"""What a finished job really took, and how far the prior was off: what later estimates learn from."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

from pydantic import Field

from app.core.estimates import cost, workload
from app.core.estimates.calibration import Observation
from app.core.estimates.cost import FORMULA, Seconds
from app.core.estimates.estimate import END_TOKENS, Asked, prior_own
from app.core.estimates.workload import Lengths
from app.core.spec.frozen import Frozen
from app.core.spec.hardware import Hardware

LEAST_SECONDS: float = 0.01
"""Shorter parts are noise."""


class Measured(Frozen):
    """What a job really took."""

    base_model: str
    device: str
    steps: int
    attempts: int
    seconds: float = Field(description="From the first claim to the end, without the time between attempts.")
    parts: dict[str, float] | None = Field(description="By part; null when it took several attempts.")
    trained_tokens: int | None
    mean_tokens: dict[str, float] = Field(description="Of one text: prompt, expert, teacher, own (rollouts).")
    peak_memory_bytes: float | None
    ratios: dict[str, float] = Field(description="log(measured / what the uncorrected model says), by what is fitted.")
    formula: int = FORMULA

    @property
    def observation(self) -> Observation:
        return Observation(self.base_model, self.device, self.ratios, self.formula)

    @classmethod
    def of(
        cls,
        asked: Asked,
        hardware: Hardware,
        *,
        attempts: int,
        seconds: float,
        parts: Seconds | None,
        lengths: Lengths,
        trained_tokens: float | None,
        peak_memory: float | None,
    ) -> "Measured":
        """With the ratios to what the prior says of `asked`, whose plan has the steps that were made."""
        return cls(
            base_model=asked.base_model,
            device=hardware.device,
            steps=asked.plan.total_steps,
            attempts=attempts,
            seconds=seconds,
            parts=None if parts is None else asdict(parts),
            trained_tokens=None if trained_tokens is None else round(trained_tokens),
            mean_tokens=asdict(lengths),
            peak_memory_bytes=peak_memory,
            ratios=ratios(asked, hardware, lengths, parts, peak_memory),
        )


def ratios(
    asked: Asked, hardware: Hardware, lengths: Lengths, parts: Seconds | None, peak_memory: float | None
) -> dict[str, float]:
    """log(measured / expected) of everything that was measured.

    Times and memory are compared with what the prior says of the tokens that there really were, so that a file with
    long answers does not look like a slow device.
    """
    counted = workload.count(asked.spec, asked.plan, asked.data, lengths)
    pairs: dict[str, tuple[float, float]] = {}
    if parts is not None:
        expected = asdict(cost.seconds(asked.spec, counted, asked.shape, hardware))
        pairs |= {
            name: (max(value, LEAST_SECONDS), expected[name])
            for name, value in asdict(parts).items()
            if expected[name] > LEAST_SECONDS
        }
    if peak_memory is not None:
        pairs["memory"] = peak_memory, cost.memory_bytes(asked.spec, counted, asked.shape, hardware)
    prior = asked.texts.lengths()
    if asked.texts.unit == "characters":
        pairs["given_tokens"] = _given(lengths, prior), _given(prior, prior)
    if counted.own_a_group:
        pairs["own_tokens"] = lengths.own, prior_own(asked, replace(lengths, own=0.0))
    return {name: math.log(found / wanted) for name, (found, wanted) in pairs.items() if found > 0 and wanted > 0}


def shortened(asked: Asked, steps: int) -> Asked:
    """The job as if its plan had been so many steps: it may have ended early."""
    return replace(asked, plan=replace(asked.plan, total_steps=steps))


def mean_lengths(asked: Asked, means: Mapping[str, float | None]) -> Lengths:
    """Measured mean tokens; what was not measured as the prior has it."""
    given = asked.texts.lengths()
    prior = replace(given, own=prior_own(asked, given))
    found = {name: means.get(name) for name in ("prompt", "expert", "teacher", "own")}
    return Lengths(**{name: getattr(prior, name) if value is None else value for name, value in found.items()})


def _given(lengths: Lengths, there: Lengths) -> float:
    """Tokens of one text of each kind that there is, without those that end them."""
    answers = [(lengths.expert, there.expert), (lengths.teacher, there.teacher)]
    return lengths.prompt + sum(size - END_TOKENS for size, is_there in answers if is_there)
