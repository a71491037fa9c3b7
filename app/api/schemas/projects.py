"""Bodies of `/v1/projects`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.pagination import Item
from app.core.accounts.limits import (
    MAX_BYTES,
    MAX_GPU_HOURS,
    MAX_INFERENCE_REQUESTS,
    MAX_JOBS,
    MAX_REQUESTS_PER_MINUTE,
    EffectiveLimits,
    limits_of,
)
from app.core.accounts.tables import Project
from app.core.jobs.quotas import QuotaUsage
from app.core.jobs.state_machine import MAX_PRIORITY, MIN_PRIORITY
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen


class ProjectLimits(Frozen):
    """A project's own limits; null means the installation's default."""

    requests_per_minute: Annotated[int | None, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)] = None
    """Requests per minute of all keys of the project together."""
    running_jobs: Annotated[int | None, Field(ge=0, le=MAX_JOBS, description="Further jobs wait in the queue.")] = None
    queued_jobs: Annotated[
        int | None, Field(ge=0, le=MAX_JOBS, description="Limit of jobs that are being validated, queued or paused.")
    ] = None
    stored_bytes: Annotated[
        int | None, Field(ge=0, le=MAX_BYTES, description="Limit of the bytes of uploaded files.")
    ] = None
    priority: Annotated[
        int | None, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Highest priority that its jobs may have.")
    ] = None
    gpu_hours: Annotated[
        int | None,
        Field(
            ge=0, le=MAX_GPU_HOURS, description="Limit per calendar month (UTC); a trainer on a CPU counts as one GPU."
        ),
    ] = None
    inference_requests: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_INFERENCE_REQUESTS,
            description="Limit of inference requests in flight; a stream counts until it ends.",
        ),
    ] = None

    def columns(self) -> dict[str, int | None]:
        """Return the limits in the request, by their columns."""
        return {f"max_{name}": getattr(self, name) for name in self.model_fields_set}


class CreateProject(Frozen):
    """A project to create."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            description="Part of the names of its models, so it cannot be changed.",
        ),
    ]
    limits: ProjectLimits = ProjectLimits()
    """Limits of the project; null or absent means the installation's default."""
    strict_enums: Annotated[
        bool, Field(description="Whether responses use only OpenAI's enum values, for clients that check them.")
    ] = False

    def columns(self) -> dict[str, int | bool | None]:
        """Return the column values of a new row."""
        return {"strict_enums": self.strict_enums, **self.limits.columns()}


class UpdateProject(Frozen):
    """Changes to a project. Fields that are absent keep their value."""

    archived: Annotated[bool | None, Field(description="True rejects its keys; false accepts them again.")] = None
    limits: Annotated[ProjectLimits | None, Field(description="Limits to change; null restores the default.")] = None
    strict_enums: Annotated[
        bool | None, Field(description="Whether responses use only OpenAI's enum values, for clients that check them.")
    ] = None

    def columns(self) -> dict[str, int | bool | None]:
        """Return the settings in the request, by their columns."""
        strict = {} if self.strict_enums is None else {"strict_enums": self.strict_enums}
        return {**strict, **(self.limits.columns() if self.limits else {})}


class ProjectUsageObject(Described):
    """The current usage of a project."""

    running_jobs: int
    """Running jobs."""
    queued_jobs: int
    """Jobs that are being validated, queued or paused."""
    stored_bytes: int
    """Bytes of uploaded files and exports."""
    gpu_hours: float = Field(description="By attempts that ended this month.")


class ProjectObject(Item):
    """A project: the owner of files, jobs, models and keys."""

    object: Literal["project"] = "project"
    name: str
    """Part of the names of the project's models."""
    status: Literal["active", "archived"]
    """`archived`: its keys are rejected."""
    created_at: int = Field(description="Unix seconds.")
    archived_at: int | None
    """Unix seconds; null unless archived."""
    strict_enums: bool = Field(
        description="Whether responses use only OpenAI's enum values unless a request says otherwise."
    )
    limits: ProjectLimits = Field(
        description="The project's own limits; null where the installation's default applies."
    )
    effective_limits: ProjectLimits = Field(description="The limits that apply.")
    usage: ProjectUsageObject | None = Field(description="What the project uses of its limits; lists leave it out.")

    @classmethod
    def of(cls, project: Project, default: EffectiveLimits, usage: QuotaUsage | None = None) -> "ProjectObject":
        """Return the wire form of a row."""
        own = {name: getattr(project, f"max_{name}") for name in ProjectLimits.model_fields}
        return cls(
            id=project.id,
            name=project.name,
            status="active" if project.archived_at is None else "archived",
            created_at=int(project.created_at.timestamp()),
            archived_at=None if project.archived_at is None else int(project.archived_at.timestamp()),
            strict_enums=project.strict_enums,
            limits=ProjectLimits(**own),
            effective_limits=_wire(ProjectLimits, limits_of(project, default)),
            usage=None if usage is None else _wire(ProjectUsageObject, usage),
        )


def _wire(model: Any, value: EffectiveLimits | QuotaUsage) -> Any:
    return model.model_validate(vars(value))
