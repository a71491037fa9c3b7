"""What is checked about a job before it is accepted: creating raises the first problem, validating lists all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from app.api.schemas.create_job import CreateJob
from app.core.errors import InvalidRequest
from app.core.jobs import checks, gates
from app.core.models import aliases
from app.core.models.adapters import starting_point
from app.core.settings import Settings
from app.core.spec.job import JobSpec


@dataclass(frozen=True)
class Checked:
    """What a request means, and what is wrong with it."""

    spec: JobSpec
    base_model: str | None
    """Canonical name; None when there is no such model."""
    problems: list[InvalidRequest]


def check(session: Session, project_id: str, body: CreateJob, settings: Settings) -> Checked:
    """Checks a well-formed request against models and files. Until the transaction ends nobody deletes its model."""
    problems: list[InvalidRequest] = []
    base, model = None, body.model
    try:
        base, adapter = starting_point(session, project_id, body.model, settings.models_dir, settings.model_aliases)
        model = base if adapter is None else adapter.id
    except InvalidRequest as error:
        problems.append(error)
    spec = body.to_spec(model)
    files = {"training_file": body.training_file, "validation_file": body.validation_file}
    wanted: list[Callable[[], None]] = [
        *(partial(gates.check_measurable, spec, body.validation_file) for _ in spec.gates[:1]),
        *(
            partial(aliases.check_name, name, settings.models_dir, settings.model_aliases)
            for name in [spec.alias]
            if name
        ),
        *(partial(checks.check_file, session, project_id, spec, one, param) for param, one in files.items() if one),
    ]
    for one in wanted:
        try:
            one()
        except InvalidRequest as error:
            error.param = body.path_as_sent(error.param or "", {"gft": body.gft}) or None
            problems.append(error)
    return Checked(spec, base, problems)
