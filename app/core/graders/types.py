"""What goes into a grader and what comes out."""

from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class ErrorType(StrEnum):
    """Why a sample has no reward; the names are those of OpenAI's grader-run answer."""

    invalid_variable = "invalid_variable_error"
    sample_parse = "sample_parse_error"
    unresponsive = "unresponsive_reward_error"
    other = "other_error"


class GraderFailure(Exception):
    """A grader could not score a sample; the message says why."""

    def __init__(self, message: str, error_type: ErrorType = ErrorType.other) -> None:
        super().__init__(message)
        self.error_type = error_type


class Sample(BaseModel):
    """What the model wrote. `sample.output_json` in templates is `output_text` parsed as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output_text: str
    output_tools: tuple[dict[str, Any], ...] = ()
    choices: tuple[dict[str, Any], ...] = ()


class Grade(BaseModel):
    """A finite reward, or why there is none: exactly one of `reward` and `error` is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reward: float | None
    error: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """Reward by the name of each grader that had a part in it."""
    error_type: ErrorType | None = None


class Tools(Protocol):
    """What graders may use of the outside world; injected, so that they stay pure."""

    def equal_math(self, reference: str, answer: str) -> bool:
        """Whether two answers are mathematically equal, in bounded time. Raises GraderFailure."""
        ...
