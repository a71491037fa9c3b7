"""What flows through the loop: rows become prompts, prompts get members, members become a group."""

from dataclasses import dataclass, field
from typing import Any

from app.core.spec.reports import Source
from app.core.spec.teacher_answers import Provenance


@dataclass(frozen=True)
class UsableAnswer:
    """A teacher's answer to a prompt."""

    text: str
    origin: Provenance


@dataclass(frozen=True)
class Prompt:
    """One row of the data set, tokenised once."""

    line: int
    """Line of the file, from 1."""
    text: str
    """The last user message, for people."""
    ids: tuple[int, ...]
    """The rendered chat up to and including the generation prompt."""
    demonstration: str | None
    teacher_answers: tuple[UsableAnswer, ...]
    item: dict[str, Any]
    """The row's fields, as graders read them."""
    messages: tuple[dict[str, Any], ...] = ()
    """The chat before its rendering, as a teacher is asked."""
    tools: tuple[dict[str, Any], ...] = ()


@dataclass
class GroupMember:
    """One response. `ids` are the trained tokens, byte for byte what was sampled or given."""

    source: Source
    ids: tuple[int, ...]
    text: str
    finished: bool
    """Ends with the turn's end token; a truncated rollout does not."""
    sampled_logprobs: tuple[float, ...] = ()
    """Log p as the sampler saw it (rollouts only)."""
    adapter_version: int | None = None
    """Optimiser steps the adapter had seen (rollouts only)."""
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
    """From the base model; None unless the job has a `kl_coefficient`."""
    trainer_logprobs: list[float] = field(default_factory=list)
    """Log p as the update saw it; empty for members that cost no forward pass."""


@dataclass
class PromptGroup:
    """A prompt with all its members; never split over optimiser steps."""

    prompt: Prompt
    members: list[GroupMember]
    zero_variance: bool = False

    @property
    def graded(self) -> list[GroupMember]:
        return [member for member in self.members if member.advantage is not None]


@dataclass(frozen=True)
class Completion:
    """What the sampler returns for one sequence."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


class JobFailure(Exception):
    """The job cannot go on; the trainer exits with `exit_code` and reports code, message and param."""

    def __init__(self, exit_code: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.param = param
