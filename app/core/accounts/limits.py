"""Limits of a project. A column that is null in its row means the installation's default."""

from dataclasses import dataclass, fields
from typing import Final

from app.core.accounts.tables import Project

MAX_REQUESTS_PER_MINUTE: Final = 1_000_000
MAX_JOBS: Final = 1_000_000
MAX_INFERENCE_REQUESTS: Final = 1_000_000
MAX_GPU_HOURS: Final = 1_000_000_000
MAX_BYTES: Final = 1_000_000_000_000_000


@dataclass(frozen=True)
class EffectiveLimits:
    """The limits that apply to a project, with defaults filled in."""

    requests_per_minute: int
    running_jobs: int
    """Maximum number of running jobs; more jobs wait in the queue even if workers are free."""
    queued_jobs: int
    """Maximum number of unfinished jobs that are not running: validating, queued and paused ones."""
    stored_bytes: int
    """Total size of uploaded files."""
    priority: int
    """Highest priority that the project's jobs may have. Only administrators can grant a higher one."""
    gpu_hours: int
    """Per calendar month."""
    inference_requests: int
    """Maximum number of inference requests in flight; a stream counts until it ends."""


def limits_of(project: Project, default: EffectiveLimits) -> EffectiveLimits:
    """Return the limits that apply to a project."""
    own = {field.name: getattr(project, f"max_{field.name}") for field in fields(EffectiveLimits)}
    return EffectiveLimits(**{name: getattr(default, name) if value is None else value for name, value in own.items()})
