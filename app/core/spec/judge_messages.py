"""What graders send to judge models: messages and sampling settings."""

from typing import Annotated, Final, Literal

from pydantic import AliasChoices, Field, field_validator

from app.core.spec.frozen import Frozen
from app.core.spec.templates import Template

MAX_MESSAGES: Final = 32
MaxTokens = Annotated[int, Field(ge=1, le=131_072)]


class JudgeText(Frozen):
    """One part of a judge message."""

    type: Literal["input_text", "output_text", "text"] = "input_text"
    """Has no effect; OpenAI's clients send it."""
    text: Template
    """The text."""

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, kind: object) -> object:
        if kind in ("input_image", "input_audio"):
            raise ValueError("only text is supported in judge messages; use 'input_text'")
        return kind


class JudgeMessage(Frozen):
    """One message to the judge model."""

    role: Literal["user", "assistant", "system", "developer"]
    """The role of the message; `developer` means `system`."""
    content: Template | JudgeText | Annotated[tuple[JudgeText, ...], Field(max_length=MAX_MESSAGES)]
    """The text, or parts of it."""
    type: Literal["message"] = "message"

    def texts(self) -> tuple[str, ...]:
        """Return the templates of the content, in order."""
        if isinstance(self.content, str):
            return (self.content,)
        parts = (self.content,) if isinstance(self.content, JudgeText) else self.content
        return tuple(part.text for part in parts)


class SamplingParams(Frozen):
    """Sampling settings of the judge model."""

    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Seed of the sampling."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Samples from the most probable tokens that together have this probability."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature."""
    max_completions_tokens: MaxTokens | None = Field(
        default=None, validation_alias=AliasChoices("max_completions_tokens", "max_completion_tokens")
    )
    """OpenAI's spelling; `max_completion_tokens` is accepted too."""
    max_tokens: MaxTokens | None = None
    """For servers that know only this name."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """How long the judge thinks, for servers that read it."""
