"""Bodies of `/v1/fine_tuning/alpha/graders`, in OpenAI's format."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas.strict_graders import as_openai
from app.core.graders.types import ErrorType, Grade, Sample
from app.core.spec.graders import BaseGrader, Grader, Judge, MultiGrader, parts

MAX_SAMPLE: Final = 1_000_000
SentObject = Annotated[dict[str, Any], Field(max_length=1000)]


class ValidateGrader(BaseModel):
    """A grader to validate."""

    grader: Grader


class ValidGrader(BaseModel):
    """The grader as a job would store it."""

    grader: dict[str, Any]
    whole_grader: dict[str, Any] | None = Field(
        default=None, description="Only for strict clients, if `grader` is a stand-in: OpenAI's SDK lacks its type."
    )

    @classmethod
    def of(cls, grader: BaseGrader, *, strict: bool) -> "ValidGrader":
        """Return the wire form; `strict` uses only types of OpenAI's SDK."""
        whole = grader.model_dump(mode="json", by_alias=True, exclude_none=True)
        shown = as_openai(whole) if strict else whole
        return cls(grader=shown) if shown == whole else cls(grader=shown, whole_grader=whole)


class SentSample(BaseModel):
    """Other parts of the model's output, for graders that read them."""

    model_config = ConfigDict(extra="forbid")

    output_tools: Annotated[list[SentObject], Field(max_length=128)] = []
    output_reasoning: Annotated[str, Field(max_length=MAX_SAMPLE)] = ""
    choices: Annotated[list[SentObject], Field(max_length=128)] = []


class RunGrader(BaseModel):
    """A grader, an answer, and the row that it answers."""

    grader: Grader
    model_sample: Annotated[str, Field(max_length=MAX_SAMPLE)]
    """The answer's text. If it is JSON, graders can also read it as `sample.output_json`."""
    item: SentObject = {}
    sample: SentSample = SentSample()

    def as_sample(self) -> Sample:
        """Return the sample in the form that graders read."""
        return Sample(
            output_text=self.model_sample,
            output_tools=tuple(self.sample.output_tools),
            output_reasoning=self.sample.output_reasoning,
            choices=tuple(self.sample.choices),
        )


class RunErrors(BaseModel):
    """The flag of one error is set if the answer could not be graded."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False

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


class RunMetadata(BaseModel):
    """Details of the run."""

    name: str
    type: str
    execution_time: float
    """Seconds."""
    scores: dict[str, float]
    passed: bool
    """Whether the answer counts as right in `eval/accuracy`: its reward reaches the grader's `pass_threshold`, or 1."""
    token_usage: int | None
    sampled_model_name: str | None
    errors: RunErrors
    error: str | None
    """Error message for people."""


class GraderRun(BaseModel):
    """The answer's reward."""

    reward: float
    """0 if `metadata.errors` has an error; in a job such an answer leaves its group instead."""
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, dict[str, int]]
    metadata: RunMetadata

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
