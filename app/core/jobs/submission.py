"""What is checked about a job before it is accepted: creating raises the first problem, validating lists all."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import InvalidRequest
from app.core.jobs import checks, gates, quotas
from app.core.models import aliases
from app.core.models.adapters import starting_point
from app.core.spec.job import JobSpec
from app.core.teachers import locations


@dataclass(frozen=True)
class Application:
    """A job that somebody asks for; its model is named as they name it."""

    model: str
    to_spec: Callable[[str], JobSpec]
    """The spec on the model with this canonical name."""
    training_file: str
    validation_file: str | None
    priority: int


@dataclass(frozen=True)
class Teachers:
    """Where the operator lets teachers be."""

    operators_url: str | None
    allowed_private_hosts: PrivateHosts


@dataclass(frozen=True)
class Examined:
    """What an application means, and what is wrong with it."""

    spec: JobSpec
    base_model: str | None
    """Canonical name; None when there is no such model."""
    problems: list[InvalidRequest]


def examine(
    session: Session,
    project_id: str,
    asked: Application,
    models_dir: Path,
    operator_aliases: Mapping[str, str],
    trackers: Collection[str],
    max_priority: int,
    teachers: Teachers,
) -> Examined:
    """Checks an application against models, files and the project's limit of priority.

    Until the transaction ends nobody deletes its model.
    """
    problems: list[InvalidRequest] = []
    base, model = None, asked.model
    try:
        base, adapter = starting_point(session, project_id, asked.model, models_dir, operator_aliases)
        model = base if adapter is None else adapter.id
    except InvalidRequest as error:
        problems.append(error)
    spec = asked.to_spec(model)
    wanted = [partial(gates.check_measurable, spec, asked.validation_file)]
    wanted.append(partial(checks.check_trackers, spec, trackers))
    wanted.append(partial(quotas.check_priority, asked.priority, max_priority))
    if spec.teacher is not None:
        wanted.append(
            partial(locations.check, spec.teacher, models_dir, teachers.operators_url, teachers.allowed_private_hosts)
        )
    if spec.alias is not None:
        wanted.append(partial(aliases.check_name, spec.alias, models_dir, operator_aliases))
    wanted.append(partial(checks.check_file, session, project_id, spec, asked.training_file, "training_file"))
    if asked.validation_file is not None:
        wanted.append(partial(checks.check_file, session, project_id, spec, asked.validation_file, "validation_file"))
    for one in wanted:
        try:
            one()
        except InvalidRequest as error:
            problems.append(error)
    return Examined(spec, base, problems)
