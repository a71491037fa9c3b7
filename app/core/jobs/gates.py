"""Gates: whether a finished training passes. Decided once, in the transaction that ends the job."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.files.tables import File
from app.core.jobs.tables import Job
from app.core.models.aliases import find_alias
from app.core.models.tables import TrainedModel
from app.core.spec.gates import Gate, parse
from app.core.spec.job import JobSpec, MethodType


@dataclass(frozen=True)
class GateResult:
    """The result of one gate."""

    gate: str
    metric: str
    value: float | None
    """Value of the published model; None if it was not measured."""
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
        if metric.startswith("eval/rewards/") and spec.method is not MethodType.dpo:
            message = f"The gate '{text}' needs pairs of answers: only the method 'dpo' measures {metric}."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        graded = metric in ("eval/reward", "eval/accuracy", "eval/grader_errors") or metric.startswith("eval/pass@")
        if graded and spec.settings.grader is None:
            message = f"The gate '{text}' needs a grader: set method.{spec.method}.grader."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        samples = spec.settings.evaluation.pass_samples
        if metric.startswith("eval/pass@") and int(metric.rpartition("@")[2]) > samples:
            message = (
                f"The gate '{text}' needs at least {metric.rpartition('@')[2]} sampled answers a row: raise "
                f"method.{spec.method}.evaluation.pass_samples, which is {samples}."
            )
            raise InvalidRequest(message, param=param, code="gate_not_measured")


def decide(session: Session, job: Job, published_step: int) -> list[GateResult]:
    """Decide each gate of a job whose row the caller holds."""
    values = _values_at(job, published_step)
    return [_result(session, job, text, values) for text in JobSpec.model_validate(job.spec).gates]


def _values_at(job: Job, step: int | None) -> dict[str, Any]:
    """Return the held-out results at a step, or the last results if `step` is None."""
    evaluations: list[dict[str, Any]] = (job.evaluation or {}).get("history", [])
    measured = [point for point in evaluations if step is None or point["step"] <= step]
    values: dict[str, Any] = measured[-1]["values"] if measured else {}
    return values


def _result(session: Session, job: Job, text: str, values: dict[str, Any]) -> GateResult:
    gate = parse(text)
    value = values.get(gate.metric)
    if gate.alias is not None:
        compared = _compared(session, job, gate, gate.alias)
        if isinstance(compared, str):
            first = compared == ""
            reason = f"the alias {gate.alias} does not exist yet, so any value passes" if first else compared
            return GateResult(text, gate.metric, value, None, first and value is not None, reason)
        gate = gate.against(compared)
    if value is None:
        return GateResult(text, gate.metric, None, gate.bound, passed=False, reason=f"{gate.metric} was not measured")
    passed = gate.passes(value)
    reason = f"{gate.metric} is {value:.4g}, {'' if passed else 'not '}{gate.sign} {gate.bound:.4g}"
    return GateResult(text, gate.metric, value, gate.bound, passed, reason)


def _compared(session: Session, job: Job, gate: Gate, name: str) -> float | str:
    """Return the metric of the model behind an alias, "" if the alias does not exist, else why it has no value."""
    alias = find_alias(session, job.project_id, name)
    if alias is None:
        return ""
    model = session.get_one(TrainedModel, alias.model)
    other = session.get_one(Job, model.job_id)
    if _rows(session, other.validation_file) != _rows(session, job.validation_file):
        return (
            f"{alias.model}, the model of alias {name}, was measured on other held-out rows than this job: use its "
            "validation file, or move the alias to a model that was measured on these rows"
        )
    value = _values_at(other, _published_step(other, model)).get(gate.metric)
    if value is None:
        return f"{gate.metric} was not measured for {alias.model}, the model of alias {name}"
    return float(value)


def _published_step(job: Job, model: TrainedModel) -> int | None:
    if model.step is not None:
        return model.step
    after = (job.evaluation or {}).get("after")
    return None if after is None else int(after["step"])


def _rows(session: Session, file_id: str | None) -> str | None:
    """Return a key for the contents of a file: equal for two uploads of the same rows. For a deleted file, its id."""
    sha256 = session.scalar(select(File.sha256).where(File.id == file_id))
    return sha256 or file_id
