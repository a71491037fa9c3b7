"""Held-out results, gates and the verdict, as responses show them in a job."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from app.core.jobs.tables import Job
from app.core.spec.described import Described
from app.core.spec.gates import parse
from app.core.spec.job import JobSpec


class GateVerdict(Described):
    """A gate of a job and, when training is finished, its result."""

    gate: str = Field(description="As sent.")
    metric: str
    """The held-out metric that the gate looks at."""
    value: float | None = Field(default=None, description="The published model's value.")
    bound: float | None = Field(default=None, description="The value that it was compared with.")
    passed: bool | None = Field(default=None, description="Null until training is finished.")
    reason: str | None = None
    """Explains the verdict; null until training is finished."""


class ComparisonObject(Described):
    """The trained model compared with the one that training started from, row by row."""

    metric: str | None = Field(default=None, description="`eval/reward` with a grader, else `eval/loss`.")
    before: float | None = Field(default=None, description="The value before training, over the rows that report.")
    after: float | None = Field(default=None, description="The value of the trained model on the same rows.")
    difference: float | None = Field(default=None, description="The mean difference of the rows.")
    low: float | None = Field(default=None, description="The lower end of its 95 % interval.")
    high: float | None = Field(default=None, description="The upper end of its 95 % interval.")
    rows: int = 0
    """Rows with a value before and after training."""
    reason: str
    """Explains the verdict, or why there is none."""


def shown_gates(job: Job, spec: JobSpec) -> list[GateVerdict]:
    """Return the gates of a job, with their results once they are decided."""
    if job.gates is not None:
        return [GateVerdict.model_validate(verdict) for verdict in job.gates]
    return [GateVerdict(gate=text, metric=parse(text).metric) for text in spec.gates]


def shown_evaluation(evaluation: dict[str, Any] | None, samples: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the held-out results of a job, with sample answers if `samples` has them."""
    if evaluation is None:
        return None
    if samples is not None:
        shown = {
            name: part | {"samples": samples[name]} if name in samples else part for name, part in evaluation.items()
        }
        return shown | ({"lines": samples["lines"]} if "lines" in samples else {})
    return {
        name: {key: value for key, value in part.items() if key != "samples"} if isinstance(part, dict) else part
        for name, part in evaluation.items()
    }
