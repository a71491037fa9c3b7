"""The data of one optimiser step: rows become prompts, prompts get members, members form a group."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from app.core.chat.encoding import Turn
from app.core.graders.types import Sample
from app.core.spec.answers import ParsedAnswer
from app.core.spec.job import MethodType
from app.core.spec.reports import Failed, Source
from app.core.spec.teacher_answers import Provenance


@dataclass(frozen=True)
class UsableAnswer:
    """A teacher answer that is complete and fits the length limit, so it can be trained on."""

    turn: Turn
    origin: Provenance


@dataclass(frozen=True)
class Prompt:
    """One row of the data set, tokenised once."""

    line: int
    """Line in the file, from 1."""
    text: str
    """The last user message, for display only."""
    ids: tuple[int, ...]
    """The rendered chat up to and including the generation prompt."""
    teacher_answers: tuple[UsableAnswer, ...]
    item: dict[str, Any]
    """The row's fields, as graders read them."""
    messages: tuple[dict[str, Any], ...] = ()
    """The chat before rendering, as it is sent to a teacher."""
    tools: tuple[dict[str, Any], ...] = ()
    turns: tuple[Turn, ...] = ()
    """The assistant messages of the row that the job trains, in order; group methods train the demonstration only."""
    pair: tuple[Turn, Turn] | None = None
    """The preferred and the non-preferred answer of a preference row."""
    demonstration: ParsedAnswer | None = None
    """The row's demonstration as the lint grades it; None if the row has none."""


@dataclass
class GroupMember:
    """One response in a group. `ids` are the trained tokens; sampled ids are never re-tokenised."""

    source: Source
    ids: tuple[int, ...]
    text: str
    """The whole response, for people."""
    finished: bool
    """Whether the response ends with the end-of-turn token; a truncated rollout does not."""
    sampled_logprobs: tuple[float, ...] = ()
    """Log p of each token as the sampler computed it (rollouts only)."""
    adapter_version: int | None = None
    """Optimiser steps of the adapter that sampled it (rollouts only)."""
    reward: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    advantage: float | None = None
    mean_p: float | None = None
    rectified_frac: float | None = None
    mean_nll: float | None = None
    entropy: float | None = None
    teacher: Provenance | None = None
    kl: float | None = None
    """Estimated KL divergence from the starting policy (rollouts of jobs with a `kl_coefficient`)."""
    reference_logprobs: list[float] = field(default_factory=list)
    """Log p of each token under the starting policy (rollouts of jobs with a `kl_coefficient`)."""
    importance_ratio: float | None = None
    """Mean importance weight of the tokens, after truncation (rollouts of jobs with importance weights)."""
    importance_truncated: float | None = None
    """Fraction of the tokens whose importance weight was truncated."""
    trainer_logprobs: list[float] = field(default_factory=list)
    """Log p of each token as the first update computed it; empty for members without a forward pass."""
    context: tuple[int, ...] | None = None
    """The ids before the member's own; None means the prompt's ids."""
    turn: int | None = None
    """Number of the row's trained turn, from 1; None unless the row has several."""
    reference_logprob: float | None = None
    """Log p of the whole answer under the reference (pairs only)."""
    parts: ParsedAnswer | None = None
    """The response for graders; None if they read `text`."""

    @property
    def sample(self) -> Sample:
        """The response as graders read it."""
        return Sample.of(self.parts or ParsedAnswer(self.text), finished=self.finished)

    def context_in(self, prompt: Prompt) -> tuple[int, ...]:
        """Returns the ids that precede the member's own in a group of `prompt`."""
        return prompt.ids if self.context is None else self.context


@dataclass
class PromptGroup:
    """A prompt with all its members. All members of a group belong to the same optimiser step."""

    prompt: Prompt
    members: list[GroupMember]
    zero_variance: bool = False

    @property
    def graded(self) -> list[GroupMember]:
        return [member for member in self.members if member.advantage is not None]


@dataclass(frozen=True)
class Completion:
    """The tokens that a sampler generated for one request."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


class JobFailure(Exception):
    """The job cannot continue. The trainer reports code, message, param and rows, and exits with `exit_code`."""

    def __init__(
        self, exit_code: int, code: str, message: str, param: str | None = None, rows: Collection[int] = ()
    ) -> None:
        """`param` may leave out the method's name after `method.`; `rows` are those of `Failed`."""
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.param = param
        self.rows = tuple(sorted(rows))

    def report(self, method: MethodType) -> Failed:
        """Returns the report of the failure of a job of this method."""
        param = None if self.param is None else in_request(self.param, method)
        return Failed(code=self.code, message=str(self), param=param, rows=self.rows)


def in_request(param: str, method: MethodType) -> str:
    """Returns the path of a field in the job's request: `method.grader` of a `gft` job is `method.gft.grader`."""
    first, _, rest = param.partition(".")
    if first != "method" or rest.partition(".")[0] in MethodType.__members__:
        return param
    return f"method.{method}.{rest}"
