"""The verdict on a finished training: is the published model better than the one that training started from?

Decided once, in the transaction that ends the job, from the results by row before and after training. Only rows that
selected nothing count.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.core.jobs.tables import Job
from app.core.plurals import plural
from app.core.spec.gates import LOWER_IS_BETTER
from app.core.spec.intervals import Difference
from app.core.spec.job import JobSpec
from app.core.spec.row_results import RowResults, difference

NAMES: Final = {"eval/reward": "mean held-out reward", "eval/loss": "held-out loss"}


class Verdict(StrEnum):
    """How a trained model compares with the one that training started from."""

    improved = "improved"
    no_change = "no_change"
    """The 95 % interval of the difference includes 0."""
    worse = "worse"


@dataclass(frozen=True)
class Comparison:
    """The numbers behind a verdict, or the reason why there is none."""

    reason: str
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    difference: float | None = None
    """Mean of after - before over the rows; `low` and `high` are the ends of its 95 % interval."""
    low: float | None = None
    high: float | None = None
    rows: int = 0
    """Rows with a value before and after."""


def decide(job: Job, published_step: int) -> tuple[Verdict | None, Comparison]:
    """Compare the published model with the one that training started from, on the rows that report."""
    if job.validation_file is None:
        return None, Comparison("No held-out rows: send a validation_file to measure whether training helps.")
    metric = "eval/reward" if JobSpec.model_validate(job.spec).settings.grader else "eval/loss"
    evaluation, rows = job.evaluation or {}, job.evaluation_rows or {}
    before, after = evaluation.get("before"), evaluation.get("after")
    if before is None or after is None or after["step"] != published_step or not {"before", "after"} <= rows.keys():
        return None, Comparison("The results by row are missing: an earlier version started this job.")
    parts = (RowResults.model_validate(rows[when]) for when in ("before", "after"))
    found = difference(metric, *parts)
    if found is None:
        return None, Comparison(f"No held-out row has a value of {metric} before and after training.")
    verdict = verdict_of(metric, found)
    old, new = (float(point["values"][metric]) for point in (before, after))
    reason = _sentence(verdict, metric, old, new, found)
    return verdict, Comparison(reason, metric, old, new, found.mean, found.low, found.high, found.rows)


def verdict_of(metric: str, found: Difference) -> Verdict:
    """Return the verdict on a difference from a model that is compared with."""
    if found.low <= 0 <= found.high:
        return Verdict.no_change
    return Verdict.improved if (found.low > 0) != (metric in LOWER_IS_BETTER) else Verdict.worse


def _sentence(verdict: Verdict, metric: str, old: float, new: float, found: Difference) -> str:
    rows = plural(found.rows, "row")
    change = f"{old:.4g} before training, {new:.4g} after"
    interval = f"95 % interval of the difference {found.low:+.3g} to {found.high:+.3g}"
    ending = {
        Verdict.improved: "",
        Verdict.no_change: f": {rows} cannot tell whether training helped",
        Verdict.worse: ": use the model that training started from",
    }[verdict]
    name = NAMES[metric]
    return f"{name[0].upper()}{name[1:]} on {rows} that did not select the model: {change} ({interval}){ending}."
