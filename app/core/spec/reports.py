"""Reports from the trainer to its runner: one JSON object per line on standard output."""

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from app.core.spec.answers import ParsedAnswer
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.frozen import Frozen
from app.core.spec.row_results import RowResults
from app.core.spec.teacher_answers import Provenance, Spent, TeacherAnswer


class Source(StrEnum):
    """Where a group member comes from."""

    expert = "expert"
    teacher = "teacher"
    self = "self"
    preferred = "preferred"
    """The better answer of a pair (dpo); `non_preferred` is the worse one."""
    non_preferred = "non_preferred"


class TrainerExit(IntEnum):
    """Exit codes of the trainer; any other code is a crash."""

    succeeded = 0
    peer_lost = 3
    """Another process of the trainer, perhaps on another worker, ended first. That one has the reason."""
    bad_config = 64
    bad_data = 65
    diverged = 66
    dependency_down = 69
    out_of_memory = 71
    stopped = 75
    """The trainer received a stop request (SIGTERM) and wrote a checkpoint."""
    gpu_fault = 79
    """The GPU driver reports a fault; the worker must not take more jobs on this GPU."""


class MemberRecord(Frozen):
    """One answer of a group, for the inspector."""

    source: Source
    text: str
    """The whole answer, thoughts and tool calls included."""
    tokens: int
    reward: float | None
    advantage: float | None
    rectified_frac: float | None
    """Fraction of its tokens with p < tau."""
    mean_p: float | None
    finished: bool
    adapter_version: int | None = None
    """Optimiser steps of the adapter that sampled it (rollouts only)."""
    error: str | None = None
    """Why grading failed."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Reward per grader, if several contributed."""
    teacher: Provenance | None = None
    """Origin of the answer (teacher answers only)."""
    turn: int | None = None
    """Number of the row's trained turn, from 1; None unless the row has several."""
    output_text: str | None = None
    """The answer without thoughts and tool calls, as graders read it; None if it is `text`."""
    output_reasoning: str = ""
    output_tools: tuple[dict[str, Any], ...] = ()
    """Tool calls in OpenAI's shape."""

    @property
    def parts(self) -> ParsedAnswer:
        """The answer as graders read it."""
        text = self.text if self.output_text is None else self.output_text
        return ParsedAnswer(text, self.output_reasoning, self.output_tools)


class GroupRecord(Frozen):
    """One prompt with all its members at one step."""

    idx: int
    row: int
    """Line of the training file, from 1."""
    prompt: str
    members: tuple[MemberRecord, ...]
    zero_variance: bool


class TrainingPath(Frozen):
    """How a job computes log-probabilities and gradients of its model."""

    name: Literal["fast", "plain"]
    """`fast` computes a prefix that answers share once; `plain` is transformers' own forward pass, a sequence at a
    time."""
    reason: str
    """Why the job does not take the fast path; empty if it does."""
    check_seconds: float = 0.0
    """Duration of the comparison with transformers' eager attention that selected the path."""
    lora_coverage: float | None = None
    """Share of the base model's weights, embeddings included, whose layer carries an adapter."""
    expert_lora_coverage: float | None = None
    """The same share of the weights of a mixture's experts; None for a model without experts."""


class Started(Frozen):
    """The model is loaded and the first step is about to run."""

    kind: Literal["started"] = "started"
    total_steps: int
    resumed_from_step: int
    batch_size: int
    n_epochs: int
    learning_rate: float
    learning_rate_multiplier: float
    rows: dict[str, Any] = Field(default_factory=dict)
    """`{"rows": {"used", "dropped"}, "held_out_rows": ...}`: the rows of the job's files that are used."""
    path: TrainingPath | None = None
    """None in reports of earlier versions."""


class DemonstrationsGraded(Frozen):
    """Progress of grading the demonstrations before training. The first report of a run over all has no grades."""

    kind: Literal["demonstrations"] = "demonstrations"
    counts: GradedDemonstrations
    """All grades so far."""
    rejected: tuple[int, ...] = ()
    """Lines of the demonstrations that failed or could not be graded since the report before."""


class Metrics(Frozen):
    """Values after one optimiser step; step 0 carries the evaluation before training."""

    kind: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float | None]
    trained_tokens: int = 0


class Groups(Frozen):
    """All groups of one step."""

    kind: Literal["groups"] = "groups"
    step: int
    groups: tuple[GroupRecord, ...]


class Message(Frozen):
    """A sentence for the job's events."""

    kind: Literal["message"] = "message"
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, Any] | None = None


class TeacherAnswers(Frozen):
    """A teacher's answers, for the project's answer cache."""

    kind: Literal["teacher_answers"] = "teacher_answers"
    answers: tuple[TeacherAnswer, ...]
    spent: Spent
    """Total of all attempts so far."""


class CheckpointSaved(Frozen):
    """A complete checkpoint exists at `path` (absolute)."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    metrics: dict[str, float | None] = Field(default_factory=dict)


class Evaluated(Frozen):
    """A held-out evaluation: one of those that training is watched and the adapter selected by, or a result."""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    values: dict[str, float | None]
    best: bool = False
    """The best evaluation after the first step: its adapter would be published if training ended here."""
    is_result: bool = False
    """Whether it is of the rows that report: before training, or of the published adapter."""
    samples: tuple[dict[str, Any], ...] = ()
    """`{"line", "prompt", "response", "reward", "reference"}`; the same rows at every evaluation."""
    rows: RowResults = RowResults()
    """The values by row; only of results."""
    selection_lines: tuple[int, ...] = ()
    """Lines of the validation file that select the adapter; only with results."""


class Finished(Frozen):
    """Training is complete; the adapter is at `path` (absolute) in PEFT format."""

    kind: Literal["finished"] = "finished"
    step: int
    path: str
    trained_tokens: int
    published_step: int
    """Step of the published adapter."""
    reason: str
    """Why that step was published."""


class Failed(Frozen):
    """The job cannot continue; the exit code gives the class of failure."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    param: str | None = None
    rows: tuple[int, ...] = ()
    """Lines of the training file on which a dependency fails although it works for other rows."""


Report = Annotated[
    Started
    | DemonstrationsGraded
    | Metrics
    | Groups
    | Message
    | TeacherAnswers
    | CheckpointSaved
    | Evaluated
    | Finished
    | Failed,
    Field(discriminator="kind"),
]

report_adapter: TypeAdapter[Report] = TypeAdapter(Report)
