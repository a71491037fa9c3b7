"""The comparison of a finished job with its control: the paired difference on the held-out rows that both report on.

Made once, in the transaction that ends the job.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from app.core.jobs import controls
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.jobs.verdicts import Verdict, verdict_of
from app.core.plurals import plural
from app.core.spec.control import NAMES
from app.core.spec.intervals import Difference
from app.core.spec.job import JobSpec, MethodType
from app.core.spec.row_results import RowResults, difference

METRIC: Final = "eval/reward"


@dataclass(frozen=True)
class ControlComparison:
    """The numbers of a comparison with a control, or the reason why there is none."""

    reason: str
    """A sentence, such as `GFT +7.0 points over SFT (95 % 1.2 to 12.8) on 40 held-out rows`."""
    verdict: Verdict | None = None
    metric: str | None = None
    control: float | None = None
    """The value of the control's model; `job` is that of the job's model."""
    job: float | None = None
    difference: float | None = None
    """Mean of job - control over the rows; `low` and `high` are the ends of its 95 % interval."""
    low: float | None = None
    high: float | None = None
    rows: int = 0
    """Rows on which both models have a value."""


def compare(session: Session, job: Job, published_step: int) -> ControlComparison | None:
    """Compare the model after `published_step` with that of the job's control; None for a job without a control."""
    spec = JobSpec.model_validate(job.spec)
    if spec.control is None:
        return None
    control, own = controls.control_of(session, job.id), _reported(job)
    results = results_of(control)
    if control is None or results is None:
        return ControlComparison(f"No comparison with the control ({NAMES[spec.control]}): {why_none(control)}.")
    if own is None or _after(job).get("step") != published_step:
        return ControlComparison("No comparison with the control: the job's own held-out results are missing.")
    found = difference(METRIC, results, own)
    if found is None:
        return ControlComparison(
            f"No comparison with the control: no held-out row has a value of {METRIC} in both jobs."
        )
    scores = (value for part in (results, own) for value in part.metrics[METRIC].values)
    are_points = all(value is None or 0 <= value <= 1 for value in scores)
    return ControlComparison(
        sentence(spec.method, spec.control, found, are_points=are_points),
        verdict_of(METRIC, found),
        METRIC,
        control=_after(control)["values"][METRIC],
        job=_after(job)["values"][METRIC],
        difference=found.mean,
        low=found.low,
        high=found.high,
        rows=found.rows,
    )


def _after(job: Job) -> dict[str, Any]:
    """Return the result after training on the rows that report."""
    return (job.evaluation or {}).get("after") or {}


def _reported(job: Job) -> RowResults | None:
    rows = (job.evaluation_rows or {}).get("after")
    return None if rows is None else RowResults.model_validate(rows)


def results_of(control: Job | None) -> RowResults | None:
    """Return the results by row of a control that succeeded; None otherwise."""
    return _reported(control) if control is not None and control.status == JobStatus.succeeded else None


def why_none(control: Job | None) -> str:
    """Return why a control has no results, without a full stop."""
    if control is None:
        return "it was deleted"
    if control.status == JobStatus.failed:
        message = (control.error or {}).get("message", "")
        return f"{control.id} failed. {message.rstrip('.')}"
    if control.status == JobStatus.cancelled:
        return f"{control.id} was cancelled"
    return f"{control.id} has no held-out results"


def sentence(method: MethodType, control: MethodType, found: Difference, *, are_points: bool) -> str:
    """Return the comparison in words. Points are hundredths of a reward between 0 and 1."""

    def shown(value: float, sign: str = "") -> str:
        return f"{100 * value:{sign}.1f}" if are_points else f"{value:{sign}.3g}"

    unit = "points" if are_points else "reward"
    relation = "over" if found.mean >= 0 else "against"
    interval = f"95 % {shown(found.low)} to {shown(found.high)}"
    rows = plural(found.rows, "held-out row")
    doubt = ", which cannot tell the two apart" if found.low <= 0 <= found.high else ""
    return f"{NAMES[method]} {shown(found.mean, '+')} {unit} {relation} {NAMES[control]} ({interval}) on {rows}{doubt}"
