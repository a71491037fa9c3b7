"""Bodies of `/v1/fine_tuning/alpha/graders`, in OpenAI's format."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from app.api.schemas.strict_graders import as_openai
from app.core.graders.suggestion import Suggestion
from app.core.graders.types import ErrorType, Grade, Sample
from app.core.spec.described import Described
from app.core.spec.graders import BaseGrader, Grader, Judge, MultiGrader, parts

MAX_SAMPLE: Final = 1_000_000
SentObject = Annotated[dict[str, Any], Field(max_length=1000)]


class ValidateGrader(Described):
    """A grader to validate."""

    grader: Grader
    """The grader to check."""


class ValidGrader(Described):
    """The grader as a job would store it."""

    grader: dict[str, Any]
    """The grader with all defaults filled in; for strict clients one of the types of OpenAI's SDK."""
    whole_grader: dict[str, Any] | None = Field(
        default=None, description="Only for strict clients, if `grader` is a stand-in: OpenAI's SDK lacks its type."
    )

    @classmethod
    def of(cls, grader: BaseGrader, *, strict: bool) -> "ValidGrader":
        """Return the wire form; `strict` uses only types of OpenAI's SDK."""
        whole = grader.model_dump(mode="json", by_alias=True, exclude_none=True)
        shown = as_openai(whole) if strict else whole
        return cls(grader=shown) if shown == whole else cls(grader=shown, whole_grader=whole)


class SentSample(Described):
    """Other parts of the model's output, for graders that read them."""

    model_config = ConfigDict(extra="forbid")

    output_tools: Annotated[list[SentObject], Field(max_length=128)] = Field(default=[])
    """Tool calls of the answer in OpenAI's shape."""
    output_reasoning: Annotated[str, Field(max_length=MAX_SAMPLE)] = ""
    """Thoughts before the answer."""
    choices: Annotated[list[SentObject], Field(max_length=128)] = Field(default=[])
    """All choices of the response, which graders read as `all_choices`."""


class RunGrader(Described):
    """A grader, an answer, and the row that it answers."""

    grader: Grader
    """The grader to run."""
    model_sample: Annotated[str, Field(max_length=MAX_SAMPLE)]
    """The answer's text. If it is JSON, graders can also read it as `sample.output_json`."""
    item: SentObject = Field(default={})
    """The row's fields, which graders read as `item`."""
    sample: SentSample = SentSample()
    """Other parts of the model's output."""

    def as_sample(self) -> Sample:
        """Return the sample in the form that graders read."""
        return Sample(
            output_text=self.model_sample,
            output_tools=tuple(self.sample.output_tools),
            output_reasoning=self.sample.output_reasoning,
            choices=tuple(self.sample.choices),
        )


class RunErrors(Described):
    """The flag of one error is set if the answer could not be graded."""

    formula_parse_error: bool = False
    """The formula of a `multi` grader has no value."""
    sample_parse_error: bool = False
    """The answer cannot be read as the grader needs it, such as JSON."""
    truncated_observation_error: bool = False
    """The answer was cut off."""
    unresponsive_reward_error: bool = False
    """The grader did not respond in time."""
    invalid_variable_error: bool = False
    """A template names a field that the row or the answer lacks."""
    other_error: bool = False
    """Any other error."""
    python_grader_server_error: bool = False
    """The sandbox of a Python grader failed."""
    python_grader_server_error_type: str | None = None
    """The kind of that failure."""
    python_grader_runtime_error: bool = False
    """The source of a Python grader raised an error."""
    python_grader_runtime_error_details: str | None = None
    """The error's message and line."""
    model_grader_server_error: bool = False
    """The judge's server failed."""
    model_grader_server_error_details: str | None = None
    """The server's message."""
    model_grader_refusal_error: bool = False
    """The judge refused to answer."""
    model_grader_parse_error: bool = False
    """The judge's answer has no result that can be read."""

    @classmethod
    def of(cls, grade: Grade) -> "RunErrors":
        """Set the flag of the grade's error, with details where OpenAI has a field for them."""
        if grade.error_type is None:
            return cls()
        details: dict[ErrorType, dict[str, str | None]] = {
            ErrorType.python_runtime: {"python_grader_runtime_error_details": grade.error},
            ErrorType.python_server: {"python_grader_server_error_type": "sandbox_killed"},
            ErrorType.judge_server: {"model_grader_server_error_details": grade.error},
        }
        return cls.model_validate({str(grade.error_type): True, **details.get(grade.error_type, {})})


class RunMetadata(Described):
    """Details of the run."""

    name: str
    """Name of the grader."""
    type: str
    """Type of the grader."""
    execution_time: float
    """Seconds."""
    scores: dict[str, float]
    """Rewards of the parts of a `multi` grader, by name."""
    passed: bool
    """Whether the answer counts as right in `eval/accuracy`: its reward reaches the grader's `pass_threshold`, or 1."""
    token_usage: int | None
    """Tokens of the judge model; null without a judge."""
    sampled_model_name: str | None
    """The judge model; null without a judge."""
    errors: RunErrors
    """The kind of error, if the answer could not be graded."""
    error: str | None
    """Error message for people."""


class GraderRun(Described):
    """The answer's reward."""

    reward: float
    """0 if `metadata.errors` has an error; in a job such an answer leaves its group instead."""
    sub_rewards: dict[str, float]
    """Rewards of the parts of a `multi` grader, by name."""
    model_grader_token_usage_per_model: dict[str, dict[str, int]]
    """Tokens by judge model."""
    metadata: RunMetadata
    """Details of the run."""

    @classmethod
    def of(cls, grader: BaseGrader, grade: Grade, seconds: float) -> "GraderRun":
        """Return the wire form of a grade."""
        name, kind = getattr(grader, "name", "grader"), getattr(grader, "type", "grader")
        judges = [part.model for part in parts(grader) if isinstance(part, Judge)]
        used = sum(tokens.prompt_tokens + tokens.completion_tokens for tokens in grade.usage.values())
        return cls(
            reward=grade.reward or 0.0,
            sub_rewards={key: grade.scores[key] for key in grader.graders if key in grade.scores}
            if isinstance(grader, MultiGrader)
            else {},
            model_grader_token_usage_per_model={model: tokens.model_dump() for model, tokens in grade.usage.items()},
            metadata=RunMetadata(
                name=name,
                type=kind,
                execution_time=seconds,
                scores=grade.scores,
                passed=grade.passed,
                token_usage=used if judges else None,
                sampled_model_name=judges[0] if judges else None,
                errors=RunErrors.of(grade),
                error=grade.error,
            ),
        )


class SuggestedGrader(Described):
    """A grader that fits the right answers in a file."""

    object: Literal["file.suggested_grader"] = "file.suggested_grader"
    file_id: str
    """The file."""
    rows_read: int = Field(description="Rows that the suggestion is based on, from all over the file.")
    grader: dict[str, Any] | None = Field(description="The grader; null if nothing in the rows shows how to grade.")
    field: str | None = Field(
        description="Field of the rows with the right answer; null if it is the demonstration, or without a grader."
    )
    reason: str
    """Why the grader fits, or why there is none, in one sentence."""

    @classmethod
    def of(cls, file_id: str, rows_read: int, suggestion: Suggestion) -> "SuggestedGrader":
        """Return the wire form of a suggestion; the grader has no field that equals its default."""
        return cls(
            file_id=file_id,
            rows_read=rows_read,
            grader=None if suggestion.grader is None else suggestion.grader.as_written(),
            field=suggestion.field,
            reason=suggestion.reason,
        )
