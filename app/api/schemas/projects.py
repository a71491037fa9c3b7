"""Projects on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item
from app.core.accounts.limits import MAX_BYTES, MAX_GPU_HOURS, MAX_JOBS, MAX_REQUESTS_PER_MINUTE, Limits, limits_of
from app.core.accounts.tables import Project
from app.core.jobs.quotas import Usage
from app.core.jobs.state_machine import MAX_PRIORITY, MIN_PRIORITY
from app.core.spec.frozen import Frozen


class ProjectLimits(Frozen):
    """A project's own limits; null means the installation's default."""

    requests_per_minute: Annotated[int | None, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)] = None
    running_jobs: Annotated[int | None, Field(ge=0, le=MAX_JOBS, description="More wait in the queue.")] = None
    queued_jobs: Annotated[
        int | None, Field(ge=0, le=MAX_JOBS, description="Jobs that validate, are queued or are paused.")
    ] = None
    stored_bytes: Annotated[int | None, Field(ge=0, le=MAX_BYTES, description="Of uploaded files.")] = None
    priority: Annotated[
        int | None, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="The highest one that its jobs may have.")
    ] = None
    gpu_hours: Annotated[
        int | None,
        Field(ge=0, le=MAX_GPU_HOURS, description="In a calendar month (UTC); a trainer on a CPU counts as one GPU."),
    ] = None

    def columns(self) -> dict[str, int | None]:
        """The limits that were sent, by their columns."""
        return {f"max_{name}": getattr(self, name) for name in self.model_fields_set}


class CreateProject(Frozen):
    """A project to make."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            description="Part of its models' names, so it never changes.",
        ),
    ]
    limits: ProjectLimits = ProjectLimits()
    strict_enums: Annotated[bool, Field(description="Answers keep to OpenAI's enums, for clients that check them.")] = (
        False
    )

    def columns(self) -> dict[str, int | bool | None]:
        """What a row gets."""
        return {"strict_enums": self.strict_enums, **self.limits.columns()}


class UpdateProject(Frozen):
    """What to change; what is left out stays."""

    archived: Annotated[bool | None, Field(description="True: its keys are refused. False: they work again.")] = None
    limits: Annotated[ProjectLimits | None, Field(description="Those that are sent; null: the default.")] = None
    strict_enums: Annotated[
        bool | None, Field(description="Answers keep to OpenAI's enums, for clients that check them.")
    ] = None

    def columns(self) -> dict[str, int | bool | None]:
        """The settings that were sent, by their columns."""
        strict = {} if self.strict_enums is None else {"strict_enums": self.strict_enums}
        return {**strict, **(self.limits.columns() if self.limits else {})}


class ProjectUsage(BaseModel):
    """What a project has now."""

    running_jobs: int
    queued_jobs: int
    stored_bytes: int
    gpu_hours: float = Field(description="Of attempts that have ended this month.")


class ProjectObject(Item):
    """What files, jobs, models and keys belong to."""

    object: Literal["project"] = "project"
    name: str
    status: Literal["active", "archived"]
    created_at: int = Field(description="Unix seconds.")
    archived_at: int | None
    strict_enums: bool = Field(description="Answers keep to OpenAI's enums when a request does not say.")
    limits: ProjectLimits = Field(description="Its own; null where the installation's default holds.")
    effective_limits: ProjectLimits = Field(description="What holds.")
    usage: ProjectUsage | None = Field(description="Null in lists.")

    @classmethod
    def of(cls, project: Project, default: Limits, usage: Usage | None = None) -> "ProjectObject":
        """The wire form of a row."""
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
            usage=None if usage is None else _wire(ProjectUsage, usage),
        )


def _wire(model: Any, value: Limits | Usage) -> Any:
    return model.model_validate(vars(value))
