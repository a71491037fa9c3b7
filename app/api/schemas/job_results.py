"""Held-out results, gates and the verdict, as responses show them in a job."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.jobs.verdicts import Verdict
from app.core.spec.described import Described
from app.core.spec.gates import parse
from app.core.spec.job import JobSpec, MethodType


class GateVerdict(Described):
    """A gate of a job and, when training is finished, its result."""

    gate: str = Field(description="As sent.")
    metric: str
    """The held-out metric that the gate looks at."""
    value: float | None = Field(
        default=None, description="The published model's value, or its difference from the control's."
    )
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


class ControlObject(Described):
    """The control of a job, and the comparison with it on the held-out rows that both report on."""

    method: MethodType
    """The method of the control."""
    job_id: str | None
    """The control, a job of its own; null if it was deleted."""
    status: JobStatus | None
    """The status of the control: the job starts when it has ended. Null if it was deleted."""
    verdict: Verdict | None = Field(
        default=None,
        description="Whether the job's model is better than the control's. `no_change`: the 95 % interval of the "
        "difference includes 0. Null until training is finished, and without a comparison; `reason` says why.",
    )
    metric: str | None = Field(default=None, description="`eval/reward`.")
    control: float | None = Field(default=None, description="The value of the control's model.")
    job: float | None = Field(default=None, description="The value of the job's model.")
    difference: float | None = Field(default=None, description="The mean difference of the rows, job minus control.")
    low: float | None = Field(default=None, description="The lower end of its 95 % interval.")
    high: float | None = Field(default=None, description="The upper end of its 95 % interval.")
    rows: int = 0
    """Rows on which both models have a value."""
    reason: str | None = Field(
        default=None,
        description="The comparison in words, or why there is none; null until training is finished.",
    )


def shown_control(job: Job, spec: JobSpec, control: Job | None) -> ControlObject | None:
    """Return the control of a job, with the comparison once it is made."""
    if spec.control is None:
        return None
    comparison = job.control_comparison or {}
    if control is None:
        return ControlObject.model_validate(comparison | {"method": spec.control, "job_id": None, "status": None})
    own = {"method": spec.control, "job_id": control.id, "status": control.status}
    return ControlObject.model_validate(comparison | own)


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
