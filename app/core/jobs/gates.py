"""Whether a finished training passes the gates of its job. Decided once, in the transaction that ends the job."""

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
from app.core.spec.job import JobSpec


@dataclass(frozen=True)
class Verdict:
    """What became of one gate."""

    gate: str
    metric: str
    value: float | None
    """Of the published model."""
    bound: float | None
    """What it was compared with; None where there was nothing to compare with."""
    passed: bool
    reason: str


def check_measurable(spec: JobSpec, validation_file: str | None) -> None:
    """Raises `InvalidRequest` for a gate on something that this job will not measure."""
    for index, text in enumerate(spec.gates):
        param, metric = f"gates.{index}", parse(text).metric
        if validation_file is None:
            message = f"The gate '{text}' needs held-out rows: send a validation_file."
            raise InvalidRequest(message, param=param, code="gate_not_measured")
        graded = metric.startswith(("eval/reward", "eval/accuracy", "eval/pass@", "eval/grader_errors"))
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


def decide(session: Session, job: Job, published_step: int) -> list[Verdict]:
    """The verdict on each gate of a job whose row the caller holds."""
    values = _values_at(job, published_step)
    return [_verdict(session, job, text, values) for text in JobSpec.model_validate(job.spec).gates]


def _values_at(job: Job, step: int | None) -> dict[str, Any]:
    """The held-out results of a step; the last ones where the step is not known."""
    history: list[dict[str, Any]] = (job.evaluation or {}).get("history", [])
    measured = [point for point in history if step is None or point["step"] <= step]
    values: dict[str, Any] = measured[-1]["values"] if measured else {}
    return values


def _verdict(session: Session, job: Job, text: str, values: dict[str, Any]) -> Verdict:
    gate = parse(text)
    value = values.get(gate.metric)
    if gate.alias is not None:
        compared = _compared(session, job, gate, gate.alias)
        if isinstance(compared, str):
            first = compared == ""
            reason = f"there is no alias {gate.alias} yet to be worse than" if first else compared
            return Verdict(text, gate.metric, value, None, first and value is not None, reason)
        gate = gate.against(compared)
    if value is None:
        return Verdict(text, gate.metric, None, gate.bound, passed=False, reason=f"{gate.metric} was not measured")
    passed = gate.passes(value)
    reason = f"{gate.metric} is {value:.4g}, {'' if passed else 'not '}{gate.sign} {gate.bound:.4g}"
    return Verdict(text, gate.metric, value, gate.bound, passed, reason)


def _compared(session: Session, job: Job, gate: Gate, name: str) -> float | str:
    """The metric of the model behind an alias; "" without such an alias, else why there is no number."""
    alias = find_alias(session, job.project_id, name)
    if alias is None:
        return ""
    model = session.get_one(TrainedModel, alias.model)
    other = session.get_one(Job, model.job_id)
    if _rows(session, other.validation_file) != _rows(session, job.validation_file):
        return (
            f"{alias.model}, which alias {name} names, was measured on other held-out rows than this job: use the same "
            "validation file, or move the alias to a model that was measured on these"
        )
    value = _values_at(other, _published_step(other, model)).get(gate.metric)
    if value is None:
        return f"{gate.metric} was not measured for {alias.model}, which alias {name} names"
    return float(value)


def _published_step(job: Job, model: TrainedModel) -> int | None:
    if model.step is not None:
        return model.step
    after = (job.evaluation or {}).get("after")
    return None if after is None else int(after["step"])


def _rows(session: Session, file_id: str | None) -> str | None:
    """What tells the contents of files apart, uploads of the same rows being the same; of a deleted one its id."""
    found = session.scalar(select(File.sha256).where(File.id == file_id))
    return found or file_id
