"""Which model a request's `model` names: a tuned model, a checkpoint, an alias, a shared model or a base model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.tables import Project
from app.core.errors import InvalidRequest, NotFound
from app.core.jobs.progress import run_progress
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Job, RemovedCheckpoint
from app.core.models import registry
from app.core.models.adapters import check_files, find_adapter
from app.core.models.tables import TrainedModel
from app.core.settings import Settings

_CHECKPOINT: Final = ":ckpt-step-"


@dataclass(frozen=True)
class ServedModel:
    """A model that an inference request may use."""

    id: str
    """Its own name, never an alias: responses contain it."""
    base: registry.BaseModel
    adapter: TrainedModel | None = None
    """None for a base model. The row is detached: read its columns only."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Of its job's chat template."""


def resolve(session: Session, project_id: str, name: str, settings: Settings) -> ServedModel:
    """Return the model that `name` stands for in this project.

    Raises `NotFound` with `param` "model" and the code `model_not_found` for a model that does not exist or that this
    project may not use, `model_not_ready` while its job is unfinished, `model_not_pulled` and
    `checkpoint_removed`. Raises `AdapterMissing` for a checkpoint without the adapter's files.
    """
    adapter = find_adapter(session, project_id, name)
    if adapter is not None:
        check_files(adapter)
        base = _pulled(registry.resolve(adapter.base_model, settings.models_dir))
        return ServedModel(adapter.id, base, adapter, _variables(session, adapter))
    if name.startswith(ids.FINE_TUNED):
        raise _missing(session, project_id, name)
    try:
        base = registry.resolve(name, settings.models_dir, settings.model_aliases)
    except InvalidRequest as error:
        raise _unknown(name) from error
    return ServedModel(base.name, _pulled(base))


def _variables(session: Session, adapter: TrainedModel) -> Mapping[str, Any]:
    found = session.scalars(select(Job.spec["chat_template_kwargs"]).where(Job.id == adapter.job_id))
    variables: dict[str, Any] | None = found.one_or_none()
    return variables or {}


def _pulled(base: registry.BaseModel) -> registry.BaseModel:
    if not base.is_pulled:
        raise NotFound(
            f"The base model '{base.name}' is not on this server yet. The first job that uses it downloads it, and so "
            f"does `grouptune models pull {base.name}`.",
            param="model",
            code="model_not_pulled",
        )
    return base


def _missing(session: Session, project_id: str, name: str) -> NotFound:
    """Return the error for a tuned model without a row: its own job may explain why."""
    model, _, step = name.partition(_CHECKPOINT)
    job = _job_of(session, project_id, model)
    if job is None:
        return _unknown(name)
    if not step:
        return _unknown(name) if job.status in TERMINAL else _unfinished(session, job, name)
    at = int(step) if step.isdecimal() else 0
    if at <= job.step and session.get(RemovedCheckpoint, (job.id, at)) is not None:
        return NotFound(
            f"The checkpoint of step {step} of the job {job.id} was deleted: a job keeps its newest checkpoints only. "
            f"GET /v1/fine_tuning/jobs/{job.id}/checkpoints lists them.",
            param="model",
            code="checkpoint_removed",
        )
    return _unknown(name) if at < job.step or job.status in TERMINAL else _unfinished(session, job, name)


def _job_of(session: Session, project_id: str, model: str) -> Job | None:
    """Return the project's job that publishes `model`, whose name ends with the end of the job's id."""
    ending = model.rpartition(":")[2]
    jobs = select(Job).where(Job.project_id == project_id, func.right(Job.id, len(ending)) == ending)
    project = session.scalars(select(Project.name).where(Project.id == project_id)).one()
    for job in session.scalars(jobs):
        base, suffix = ids.base_of(job.spec["model"]), job.spec.get("suffix")
        if ending and ids.fine_tuned_model(base, project, suffix, job.id) == model:
            return job
    return None


def _unfinished(session: Session, job: Job, name: str) -> NotFound:
    running = run_progress(session, [job]).get(job.id)
    left = None if running is None else running.eta_seconds
    remaining = "" if left is None else f", for about {_duration(left)} more"
    return NotFound(
        f"The model '{name}' does not exist yet: the job {job.id} that trains it is {job.status}{remaining}.",
        param="model",
        code="model_not_ready",
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{max(1, round(seconds))} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.0f} h"
    )


def _unknown(name: str) -> NotFound:
    """Return OpenAI's error, which does not reveal whether another project has the model."""
    return NotFound(
        f"The model `{name}` does not exist or you do not have access to it.", param="model", code="model_not_found"
    )
