"""Gates: whether a finished training passes. Decided once, in the transaction that ends the job.

A gate with a number looks at the value itself, or at its difference from the control's. A gate with an alias is a test
on the rows that both models answered.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.files.tables import File
from app.core.jobs import controls
from app.core.jobs.control_comparisons import results_of, why_none
from app.core.jobs.tables import Job
from app.core.models.aliases import find_alias
from app.core.models.tables import TrainedModel
from app.core.plurals import plural
from app.core.spec.gates import LOWER_IS_BETTER, Gate, parse
from app.core.spec.intervals import Difference
from app.core.spec.job import JobSpec, MethodType
from app.core.spec.row_results import RowResults, difference

MIN_PAIRED_ROWS: Final = 10
"""Fewer common rows are no basis for a comparison with the model of an alias."""


@dataclass(frozen=True)
class GateResult:
    """The result of one gate."""

    gate: str
    metric: str
    value: float | None
    """Value of the published model on the rows that report, or its difference from the control's; None if it was not
    measured."""
    bound: float | None
    """The bound that the value was compared with; None if the alias or its value is missing."""
    passed: bool
    reason: str


def check_measurable(spec: JobSpec, validation_file: str | None) -> None:
    """Raise `InvalidRequest` for a gate on a metric that this job will not measure."""
    for index, text in enumerate(spec.gates):
        param, metric = f"gates.{index}", parse(text).metric
        if validation_file is None:
            message = f"The gate '{text}' needs held-out rows: send a validation_file."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        if parse(text).vs_control and spec.control is None:
            message = f"The gate '{text}' needs a control to compare with: set `control` to a method."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        if metric.startswith("eval/rewards/") and spec.method is not MethodType.dpo:
            message = f"The gate '{text}' needs pairs of answers: only the method 'dpo' measures {metric}."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        graded = metric in ("eval/reward", "eval/accuracy", "eval/grader_errors") or metric.startswith("eval/pass@")
        if graded and spec.settings.grader is None:
            message = f"The gate '{text}' needs a grader: set method.{spec.method}.grader."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        samples = spec.settings.evaluation.pass_samples
        if metric.startswith("eval/pass@") and int(metric.rpartition("@")[2]) > samples:
            needed = plural(int(metric.rpartition("@")[2]), "sampled answer")
            message = (
                f"The gate '{text}' needs at least {needed} per row: raise "
                f"method.{spec.method}.evaluation.pass_samples, which is {samples}."
            )
            raise InvalidRequest(message, param=param, code="gate_not_measured")


def decide(session: Session, job: Job, published_step: int) -> list[GateResult]:
    """Decide each gate of a job whose row the caller holds."""
    result = _result_at(job, published_step)
    return [_decided(session, job, text, result) for text in JobSpec.model_validate(job.spec).gates]


def _result_at(job: Job, step: int | None) -> dict[str, Any]:
    """Return the result on the rows that report, of the adapter after `step`; None stands for the published one."""
    after: dict[str, Any] = (job.evaluation or {}).get("after") or {}
    return after if step is None or after.get("step") == step else {}


def _decided(session: Session, job: Job, text: str, result: dict[str, Any]) -> GateResult:
    gate = parse(text)
    value = result.get("values", {}).get(gate.metric)
    if gate.vs_control:
        return _against_control(session, job, text, gate, value)
    if gate.alias is not None:
        return _compared(session, job, text, gate, gate.alias, value)
    if value is None:
        return GateResult(text, gate.metric, None, gate.bound, passed=False, reason=f"{gate.metric} was not measured")
    passed = gate.passes(value)
    comparison = f"{'' if passed else 'not '}{gate.sign} {gate.bound:.4g}"
    reason = f"{gate.metric} is {value:.4g}, {comparison}{_uncertainty(gate, result)}"
    return GateResult(text, gate.metric, value, gate.bound, passed, reason)


def _uncertainty(gate: Gate, result: dict[str, Any]) -> str:
    """Return the interval of the value; if the bound is inside, with a warning that luck may have decided."""
    if (interval := result.get("intervals", {}).get(gate.metric)) is None or gate.bound is None:
        return ""
    low, high = interval
    rows = plural(result["rows"], "row")
    doubt = f": {rows} cannot tell it from the bound" if low < gate.bound < high else f" on {rows}"
    return f" (95 % interval {low:.4g} to {high:.4g}{doubt})"


def _compared(session: Session, job: Job, text: str, gate: Gate, name: str, value: float | None) -> GateResult:
    """Compare with the model of an alias, row by row."""

    def result(*, passed: bool, reason: str, bound: float | None = None) -> GateResult:
        return GateResult(text, gate.metric, value, bound, passed, reason)

    if (alias := find_alias(session, job.project_id, name)) is None:
        reason = f"the alias {name} does not exist yet, so any value passes"
        return result(passed=value is not None, reason=reason)
    if value is None:
        return result(passed=False, reason=f"{gate.metric} was not measured")
    model = session.get_one(TrainedModel, alias.model)
    other, whose = session.get_one(Job, model.job_id), f"{alias.model}, the model of alias {name},"
    if reporting_rows(session, other) != reporting_rows(session, job):
        cure = "use its held-out file, or move the alias to a model that was measured on these rows"
        return result(passed=False, reason=f"{whose} was measured on other held-out rows than this job: {cure}")
    known = _result_at(other, model.step).get("values", {}).get(gate.metric)
    if known is None:
        return result(passed=False, reason=f"{gate.metric} was not measured for {whose.rstrip(',')}")
    parts = [(one.evaluation_rows or {}).get("after") for one in (other, job)]
    if None in parts:
        cure = "train it again, or move the alias to a model of this version"
        return result(
            passed=False, reason=f"{whose} has no results by row, because an earlier version trained it: {cure}"
        )
    bound = gate.against(known).bound
    found = difference(gate.metric, *(RowResults.model_validate(part) for part in parts))
    if found is None:  # a metric without values by row
        passed = gate.against(known).passes(value)
        return result(passed=passed, bound=bound, reason=f"{gate.metric} is {value:.4g}, {known:.4g} for {alias.model}")
    return result(passed=_is_no_worse(gate, found), bound=bound, reason=_differs(gate, found, alias.model))


def _against_control(session: Session, job: Job, text: str, gate: Gate, value: float | None) -> GateResult:
    """Compare the difference from the job's control with the bound."""
    control = controls.control_of(session, job.id)
    results = results_of(control)
    if control is None or results is None:
        reason = f"there is no result of the control: {why_none(control)}"
        return GateResult(text, gate.metric, None, gate.bound, passed=False, reason=reason)
    known = _result_at(control, None).get("values", {}).get(gate.metric)
    if known is None or value is None:
        whose = "" if value is None else " for the control"
        reason = f"{gate.metric} was not measured{whose}"
        return GateResult(text, gate.metric, None, gate.bound, passed=False, reason=reason)
    found = difference(gate.metric, results, RowResults.model_validate((job.evaluation_rows or {})["after"]))
    change = value - known if found is None else found.mean
    passed = gate.passes(change)
    comparison = f"{'' if passed else 'not '}{gate.sign} {gate.bound:.4g}"
    reason = f"{gate.metric} differs by {change:+.4g} from the control's, {comparison}"
    if found is not None:
        rows = plural(found.rows, "row")
        reason += f" (95 % interval {found.low:+.3g} to {found.high:+.3g} on {rows}{_doubt(gate, found)})"
        if found.rows < MIN_PAIRED_ROWS:
            passed, reason = False, f"only {rows} have a value in both jobs: a comparison takes {MIN_PAIRED_ROWS}"
    return GateResult(text, gate.metric, change, gate.bound, passed, reason)


def _doubt(gate: Gate, found: Difference) -> str:
    is_inside = gate.bound is not None and found.low < gate.bound < found.high
    return ", which cannot tell it from the bound" if is_inside else ""


def _is_no_worse(gate: Gate, found: Difference) -> bool:
    """Return whether the comparison leaves it open that the model is worse by no more than the margin.

    Two equal models fail in 2.5 % of comparisons. Fewer than `MIN_PAIRED_ROWS` rows prove nothing, so they never pass.
    """
    best = -found.low if gate.metric in LOWER_IS_BETTER else found.high
    return found.rows >= MIN_PAIRED_ROWS and best >= -gate.margin


def _differs(gate: Gate, found: Difference, model: str) -> str:
    rows = plural(found.rows, "row")
    if found.rows < MIN_PAIRED_ROWS:
        return f"only {rows} of this job were also used for {model}: a comparison takes {MIN_PAIRED_ROWS}"
    verdict = "no worse" if _is_no_worse(gate, found) else "worse"
    margin = f" by more than {gate.margin:g}" if gate.margin else ""
    interval = f"95 % interval {found.low:+.3g} to {found.high:+.3g}"
    differs = f"{gate.metric} differs by {found.mean:+.3g} from {model} on the same {rows}"
    return f"{differs} ({interval}), so it is {verdict}{margin}"


def reporting_rows(session: Session, job: Job) -> str | None:
    """Return a key for the file whose rows report: equal for two uploads of it. For a deleted file, its id."""
    file_id = job.test_file or job.validation_file
    sha256 = session.scalar(select(File.sha256).where(File.id == file_id))
    return sha256 or file_id
