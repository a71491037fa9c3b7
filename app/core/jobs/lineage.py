"""How a trained model was made: its job, its files, the models it descends from, and its held-out results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.core.files.tables import File, not_expired
from app.core.ids import FINE_TUNED
from app.core.jobs.tables import Job
from app.core.models.adapters import usable_adapters
from app.core.models.aliases import alias_names
from app.core.models.tables import TrainedModel

MAX_PARENTS: Final = 32
HELD_OUT: Final = "eval/"
"""Prefix of the names of held-out results."""

# The chain ends at a job of another project: what that project trained on is not shown.
_PARENTS: Final = text(
    """
    WITH RECURSIVE chain AS (
        SELECT 1 AS depth, spec->>'model' AS model FROM jobs WHERE id = :job_id AND project_id = :project_id
        UNION ALL
        SELECT depth + 1, jobs.spec->>'model' FROM chain
        JOIN models ON models.id = chain.model
        JOIN jobs ON jobs.id = models.job_id AND jobs.project_id = :project_id
        WHERE depth < :most
    )
    SELECT model FROM chain WHERE starts_with(model, :prefix) ORDER BY depth
    """
)


@dataclass(frozen=True)
class Parent:
    """A model that training started from."""

    id: str
    job_id: str | None
    """The job that trained it; None if the project can no longer use the model."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out results at a step."""

    step: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Lineage:
    """How a model was made."""

    job: Job
    aliases: tuple[str, ...]
    training_file: File | None
    """None if the file is deleted."""
    validation_file: File | None
    test_file: File | None
    parents: tuple[Parent, ...]
    """The model that the job started from, then the model that this one started from, and so on."""
    before: HeldOut | None
    """Results of the model that training started from."""
    after: HeldOut | None
    """Results of this model; None for a checkpoint whose step was not evaluated."""


def lineage_of(session: Session, project_id: str, adapter: TrainedModel) -> Lineage | None:
    """Return how the model was made; None for a model that another project shares."""
    if adapter.project_id != project_id:
        return None
    job = session.get_one(Job, adapter.job_id)
    files = _files(session, job)
    evaluation = job.evaluation or {}
    return Lineage(
        job=job,
        aliases=tuple(alias_names(session, adapter.id)),
        training_file=files.get(job.training_file),
        validation_file=files.get(job.validation_file or ""),
        test_file=files.get(job.test_file or ""),
        parents=_parents(session, job),
        before=_held_out(evaluation.get("before")),
        after=_held_out(evaluation.get("after") if adapter.step is None else _at(evaluation, adapter.step)),
    )


def _files(session: Session, job: Job) -> dict[str, File]:
    stored = select(File).where(File.id.in_(job.files.values()), File.project_id == job.project_id, not_expired())
    return {file.id: file for file in session.scalars(stored)}


def _parents(session: Session, job: Job) -> tuple[Parent, ...]:
    if not str(job.spec["model"]).startswith(FINE_TUNED):
        return ()
    key = {"job_id": job.id, "project_id": job.project_id, "most": MAX_PARENTS, "prefix": FINE_TUNED}
    names = session.scalars(_PARENTS, key).all()
    usable = usable_adapters(session, job.project_id, names)
    return tuple(Parent(name, usable[name].job_id if name in usable else None) for name in names)


def _at(evaluation: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    return next((point for point in evaluation.get("history", []) if point["step"] == step), None)


def _held_out(result: Mapping[str, Any] | None) -> HeldOut | None:
    if result is None:
        return None
    values = {name: value for name, value in result["values"].items() if name.startswith(HELD_OUT)}
    return HeldOut(result["step"], values) if values else None
