"""How much a project may use. A number that its row leaves open is the installation's default."""

from dataclasses import dataclass, fields
from typing import Final

from app.core.accounts.tables import Project

MAX_REQUESTS_PER_MINUTE: Final = 1_000_000
MAX_JOBS: Final = 1_000_000
MAX_GPU_HOURS: Final = 1_000_000_000
MAX_BYTES: Final = 1_000_000_000_000_000


@dataclass(frozen=True)
class EffectiveLimits:
    """All limits of a project."""

    requests_per_minute: int
    running_jobs: int
    """More wait in the queue, however many workers are free."""
    queued_jobs: int
    """Jobs that are not finished and do not run: validating, queued and paused ones."""
    stored_bytes: int
    """Of uploaded files."""
    priority: int
    """The highest one that its jobs may have; what lies above others' work is the administrators' to give."""
    gpu_hours: int
    """In a calendar month."""


def limits_of(project: Project, default: EffectiveLimits) -> EffectiveLimits:
    """What holds for a project."""
    own = {field.name: getattr(project, f"max_{field.name}") for field in fields(EffectiveLimits)}
    return EffectiveLimits(**{name: getattr(default, name) if value is None else value for name, value in own.items()})
