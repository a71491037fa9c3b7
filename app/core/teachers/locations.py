"""Locations of teachers: the address in the job, a base model in the models directory, or the operator's server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.core.egress.client import AddressRefused, check_url
from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import InvalidRequest
from app.core.models import registry
from app.core.models.registry import BaseModel
from app.core.spec.job import Teacher

LOCAL: Final = "local"
"""Name under which answers of this installation's base models are stored."""
PARAM: Final = "method.gft.teacher"


@dataclass(frozen=True)
class TeacherLocation:
    """Where a teacher runs."""

    url: str | None
    """Base URL of the teacher's server; None for a base model of this installation."""
    base_model: BaseModel | None = None
    is_operators: bool = False

    @property
    def name(self) -> str:
        """Name under which the teacher's answers are stored."""
        return self.url or LOCAL


def find(teacher: Teacher, models_dir: Path, operators_url: str | None) -> TeacherLocation:
    """Return the location of a teacher. Raises `InvalidRequest` for a model that is not available."""
    if teacher.base_url is not None:
        return TeacherLocation(teacher.base_url)
    try:
        return TeacherLocation(None, registry.resolve(teacher.model, models_dir))
    except InvalidRequest as error:
        if operators_url is not None:
            return TeacherLocation(operators_url, is_operators=True)
        raise InvalidRequest(
            f"The teacher '{teacher.model}' is not a base model of this server, and the operator has not set a teacher "
            "server (GROUPTUNE_TEACHER_URL). Set `teacher.base_url` to the address of an OpenAI-compatible server up "
            f"to /v1, or use one of: {', '.join(base.name for base in registry.list_base_models(models_dir))}.",
            param=f"{PARAM}.model",
            code="teacher_not_found",
        ) from error


def check(teacher: Teacher, models_dir: Path, operators_url: str | None, allowed: PrivateHosts) -> None:
    """Raise `InvalidRequest` for a teacher that is not available or at a forbidden address."""
    location = find(teacher, models_dir, operators_url)
    if location.url is None or location.is_operators:
        return
    try:
        check_url(location.url, allowed)
    except AddressRefused as error:
        raise AddressRefused(error.message, param=f"{PARAM}.base_url") from error
