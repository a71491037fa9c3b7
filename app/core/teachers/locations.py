"""Where a job's teacher is: at the address that the job names, in the models directory, or with the operator."""

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
"""The place of all base models of this installation."""
PARAM: Final = "method.gft.teacher"


@dataclass(frozen=True)
class Place:
    """Where a teacher answers."""

    url: str | None
    """Base address of its server, or None for a base model of ours."""
    base_model: BaseModel | None = None
    is_operators: bool = False

    @property
    def name(self) -> str:
        """What its answers are stored under."""
        return self.url or LOCAL


def find(teacher: Teacher, models_dir: Path, operators_url: str | None) -> Place:
    """The place of a teacher. Raises `InvalidRequest` for a model that is nowhere."""
    if teacher.base_url is not None:
        return Place(teacher.base_url)
    try:
        return Place(None, registry.resolve(teacher.model, models_dir))
    except InvalidRequest as error:
        if operators_url is not None:
            return Place(operators_url, is_operators=True)
        raise InvalidRequest(
            f"The teacher '{teacher.model}' is no base model of this server, and the operator has named no server of "
            "teachers (GROUPTUNE_TEACHER_URL). Give `teacher.base_url`, the address of an OpenAI-compatible server up "
            f"to /v1, or use one of: {', '.join(base.name for base in registry.list_base_models(models_dir))}.",
            param=f"{PARAM}.model",
            code="teacher_not_found",
        ) from error


def check(teacher: Teacher, models_dir: Path, operators_url: str | None, allowed: PrivateHosts) -> None:
    """Raises `InvalidRequest` for a teacher that is nowhere or at an address that is not allowed."""
    place = find(teacher, models_dir, operators_url)
    if place.url is None or place.is_operators:
        return
    try:
        check_url(place.url, allowed)
    except AddressRefused as error:
        raise AddressRefused(error.message, param=f"{PARAM}.base_url") from error
