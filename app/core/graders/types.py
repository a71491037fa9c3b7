"""Input and output types of graders."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from app.core.spec.answers import ParsedAnswer


class ErrorType(StrEnum):
    """Why a sample has no reward; the names are those of OpenAI's grader-run response."""

    formula_parse = "formula_parse_error"
    invalid_variable = "invalid_variable_error"
    sample_parse = "sample_parse_error"
    truncated = "truncated_observation_error"
    unresponsive = "unresponsive_reward_error"
    python_runtime = "python_grader_runtime_error"
    python_server = "python_grader_server_error"
    judge_parse = "model_grader_parse_error"
    judge_refusal = "model_grader_refusal_error"
    judge_server = "model_grader_server_error"
    other = "other_error"


class GraderFailure(Exception):
    """A grader could not score a sample; the message gives the reason."""

    def __init__(self, message: str, error_type: ErrorType = ErrorType.other, *, is_transient: bool = False) -> None:
        """`is_transient` is that of `Grade`."""
        super().__init__(message)
        self.error_type = error_type
        self.is_transient = is_transient


class Sample(BaseModel):
    """The model's output. `sample.output_json` in templates is `output_text` parsed as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output_text: str
    """The answer without thoughts, tool calls and end token."""
    output_tools: tuple[dict[str, Any], ...] = ()
    """Its tool calls in OpenAI's shape."""
    output_reasoning: str = ""
    """The thoughts before the answer."""
    choices: tuple[dict[str, Any], ...] = ()
    """The choices as sent; graders read `all_choices`."""
    finished: bool = True
    """False for an answer that `max_tokens` cut off."""

    @classmethod
    def of(cls, answer: ParsedAnswer, *, finished: bool = True) -> "Sample":
        """Return an answer as graders read it."""
        return cls(
            output_text=answer.text,
            output_tools=answer.tool_calls,
            output_reasoning=answer.reasoning,
            finished=finished,
        )

    @property
    def all_choices(self) -> tuple[dict[str, Any], ...]:
        """Return the choices as sent, or else the answer as the only choice."""
        if self.choices:
            return self.choices
        message: dict[str, Any] = {"role": "assistant", "content": self.output_text}
        if self.output_reasoning:
            message["reasoning_content"] = self.output_reasoning
        if self.output_tools:
            message["tool_calls"] = list(self.output_tools)
        reason = ("tool_calls" if self.output_tools else "stop") if self.finished else "length"
        return ({"index": 0, "finish_reason": reason, "message": message},)

    @property
    def is_cut_off(self) -> bool:
        return any(choice.get("finish_reason") == "length" for choice in self.all_choices)

    def for_code(self) -> dict[str, Any]:
        """Return the sample as Python graders and endpoints receive it; `output_json` only if the text is JSON."""
        sent: dict[str, Any] = {
            "output_text": self.output_text,
            "output_tools": list(self.output_tools),
            "output_reasoning": self.output_reasoning,
            "choices": list(self.all_choices),
        }
        try:
            sent["output_json"] = json.loads(self.output_text)
        except (ValueError, RecursionError):
            sent["output_json"] = None
        return sent


class TokenUsage(BaseModel):
    """Input and output tokens of a judge."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True)
class Scored:
    """A reward, and the token usage of its judge."""

    reward: float
    usage: Mapping[str, TokenUsage] = field(default_factory=dict)
    """By the name of the judge model."""
    unclipped: float | None = None
    """The judge's own number, before it was clipped to the grader's range."""


class Grade(BaseModel):
    """A finite reward or an error: exactly one of `reward` and `error` is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reward: float | None
    error: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """Reward by name of each contributing grader; for the parts of a multi grader, by their keys.

    `<name>/unclipped` is the number of a judge that was outside of its range.
    """
    error_type: ErrorType | None = None
    is_transient: bool = False
    """Whether a server was unavailable or overloaded, so that a later attempt may succeed."""
    usage: dict[str, TokenUsage] = Field(default_factory=dict)
    """Token usage by judge model."""
    passed: bool = False
    """Whether the reward reaches the grader's `pass_threshold`, or the full reward of 1 without a threshold."""


class Tools(Protocol):
    """External resources for graders, injected so that graders stay pure. All methods raise GraderFailure."""

    def isolated(self, check: str, *arguments: Any) -> Any:
        """Run a module of `app.core.graders.checks` on the arguments, in bounded time and memory."""
        ...

    def python(self, source: str, sample: dict[str, Any], item: dict[str, Any]) -> Any:
        """Return `grade(sample, item)` of the source, run in a sandbox."""
        ...

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a chat completion request to the judge and return its reply."""
        ...

    def post(self, url: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        """Send a request to a reward server and return its JSON reply."""
        ...
