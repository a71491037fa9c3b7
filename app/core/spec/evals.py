"""Contracts of eval runs: the sampler of a run, and the results of its rows."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from app.core.spec.frozen import Frozen
from app.core.spec.judge_messages import MAX_MESSAGES, JudgeMessage


class TemplateMessages(Frozen):
    """Messages with placeholders such as `{{item.question}}`."""

    type: Literal["template"]
    template: Annotated[tuple[JudgeMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    """The messages to the model, in order."""


class ItemReference(Frozen):
    """A field of the items that holds the messages."""

    type: Literal["item_reference"]
    item_reference: Annotated[str, Field(pattern=r"^item\.[^\W\d][\w-]*(\.[^\W\d][\w-]*)*$", max_length=256)]
    """`item.` and the path of the field, such as `item.messages`."""


InputMessages = Annotated[TemplateMessages | ItemReference, Field(discriminator="type")]


class SamplerSpec(Frozen):
    """How the answers of a run are sampled."""

    model: str
    """A model of this server, or of the server at `base_url`."""
    base_url: str | None = None
    """Base URL of an OpenAI-compatible server, up to `/v1`; None for a model of this installation."""
    is_operators: bool = False
    """Whether the model is on the operator's teacher server."""
    input_messages: InputMessages | None = None
    """None: the prompts of rows in the format of training files."""
    max_completion_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 42
    reasoning_effort: str | None = None
    json_schema: dict[str, Any] | None = None
    """Schema of the answer's text."""
    response_format: dict[str, Any] | None = None
    """The same as the client sent it, for other servers."""
    tools: tuple[dict[str, Any], ...] = ()
    """In OpenAI's shape."""


class RowStatus(StrEnum):
    """The result of a row: all criteria passed, one did not pass, or the row has no result."""

    passed = "pass"
    failed = "fail"
    error = "error"


class CriterionResult(Frozen):
    """One criterion's result on a row."""

    name: str
    type: str
    passed: bool
    score: float | None
    """None if the answer could not be graded."""
    error: str | None = None


class RowError(Frozen):
    """Why a row has no answer."""

    code: str
    message: str


class ModelUsage(Frozen):
    """Requests and tokens of one model."""

    invocation_count: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "ModelUsage") -> "ModelUsage":
        return ModelUsage(
            invocation_count=self.invocation_count + other.invocation_count,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


class RowSample(Frozen):
    """A row's answer."""

    model: str = ""
    """Empty for a stored answer of an unknown model."""
    input: tuple[dict[str, Any], ...] = ()
    """The messages that the model was sent."""
    output: tuple[dict[str, Any], ...] = ()
    """The answer as an assistant message; empty without an answer."""
    finish_reason: str = ""
    usage: ModelUsage = ModelUsage()
    error: RowError | None = None


class CriterionCounts(Frozen):
    """Rows of one criterion by result."""

    name: str
    passed: int = 0
    failed: int = 0
    errored: int = 0


class RowOutcome(Frozen):
    """A finished row."""

    number: int
    status: RowStatus
    sample: RowSample
    results: tuple[CriterionResult, ...] = ()
    """Empty if the row has no answer."""
    usage: dict[str, ModelUsage] = Field(default_factory=dict)
    """By model: the sampler's, and those of judges."""

    @property
    def bytes(self) -> int:
        """Size of the stored answer and results as JSON."""
        return sum(len(part.model_dump_json().encode()) for part in (self.sample, *self.results))


class Totals(Frozen):
    """Sums over the finished rows of a run."""

    passed: int = 0
    failed: int = 0
    errored: int = 0
    criteria: tuple[CriterionCounts, ...] = ()
    """In the order of the eval's criteria; JSONB keeps no order of keys."""
    usage: dict[str, ModelUsage] = Field(default_factory=dict)
    """By model."""
    bytes: int = 0
    """Size of the answers and results as JSON. Counts towards the project's `stored_bytes`."""

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.errored

    def adding(self, outcome: RowOutcome) -> "Totals":
        """Return the sums with one more row. A row without an answer counts as an error of every criterion."""
        rows = {"pass": "passed", "fail": "failed", "error": "errored"}[outcome.status]
        results = {result.name: _column(result) for result in outcome.results}
        criteria = tuple(_plus_one(counts, results.get(counts.name, "errored")) for counts in self.criteria)
        counts = {rows: getattr(self, rows) + 1, "bytes": self.bytes + outcome.bytes}
        return self.model_copy(update={**counts, "criteria": criteria, "usage": _summed(self.usage, outcome.usage)})


def _column(result: CriterionResult) -> str:
    return "errored" if result.score is None else "passed" if result.passed else "failed"


def _plus_one(counts: CriterionCounts, column: str) -> CriterionCounts:
    return counts.model_copy(update={column: getattr(counts, column) + 1})


def _summed(first: Mapping[str, ModelUsage], second: Mapping[str, ModelUsage]) -> dict[str, ModelUsage]:
    names = {**first, **second}
    return {name: first.get(name, ModelUsage()) + second.get(name, ModelUsage()) for name in names}
