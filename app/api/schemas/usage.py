"""Answers of `/v1/organization/usage/completions`, in OpenAI's shape."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.core.inference.usage import UsageSum
from app.core.spec.described import Described


class UsageResult(Described):
    """The usage of one group in one bucket. A field that the report is not grouped by is null."""

    object: Literal["organization.usage.completions.result"] = "organization.usage.completions.result"
    input_tokens: int
    """Prompt tokens."""
    output_tokens: int
    """Tokens of the answers."""
    num_model_requests: int
    """Number of requests."""
    project_id: str | None = None
    """The project."""
    api_key_id: str | None = None
    """The API key."""
    model: str | None = None
    """The model."""

    @classmethod
    def of(cls, usage: UsageSum) -> "UsageResult":
        """Return the wire form of a sum."""
        return cls(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            num_model_requests=usage.requests,
            project_id=usage.group.get("project_id"),
            api_key_id=usage.group.get("api_key_id"),
            model=usage.group.get("model"),
        )


class UsageBucket(Described):
    """A part of the time range with its usage; `results` is empty without any."""

    object: Literal["bucket"] = "bucket"
    start_time: int = Field(description="Unix seconds, inclusive.")
    end_time: int = Field(description="Unix seconds, exclusive.")
    results: list[UsageResult]
    """One entry for each group."""

    @classmethod
    def of(cls, start: datetime, end: datetime, sums: list[UsageSum]) -> "UsageBucket":
        """Return the wire form of a bucket."""
        results = [UsageResult.of(usage) for usage in sums]
        return cls(start_time=int(start.timestamp()), end_time=int(end.timestamp()), results=results)


class UsagePage(Described):
    """Consecutive buckets. While `has_more` is true, request the next ones with `page=<next_page>`."""

    object: Literal["page"] = "page"
    data: list[UsageBucket]
    """The buckets, oldest first."""
    has_more: bool
    """Whether more buckets follow."""
    next_page: str | None
    """Send it as `page` to get the next buckets; null on the last page."""
