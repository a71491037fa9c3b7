"""Bodies of `/v1/completions`, OpenAI's legacy route for plain text."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from app.api.ids import MAX_MODEL_NAME
from app.api.schemas.chat_completions import StreamOptions
from app.api.schemas.openai_fields import problem
from app.core.inference.sampling import Sampling
from app.core.spec.frozen import Frozen

MAX_PROMPTS = 16
MAX_CHOICES = 128
"""Prompts times `n`: the completions of one request."""
MAX_TEXT = 4_000_000
MAX_TOKENS = 1_048_576
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16

Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenId = Annotated[int, Field(ge=0, le=2_147_483_647)]
TokenIds = Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]
"""Fails at the first wrong item: an error for each of a million items would keep the event loop busy for a minute."""
Prompt = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
)
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class CreateCompletion(Frozen):
    """Texts to complete."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]
    prompt: Annotated[
        Prompt, Field(description="One or several prompts, as text or as token ids. No chat template is applied.")
    ]
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES, description="Completions of each prompt.")] = None
    best_of: Annotated[int | None, Field(ge=1, le=MAX_CHOICES, description="Must equal `n`.")] = None
    max_tokens: Annotated[
        int | None, Field(ge=0, le=MAX_TOKENS, description="Tokens of each completion; 0 only with `echo`.")
    ] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), le=2**63 - 1)] = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None,
        Field(max_length=1024, description="Token id -> bias."),
    ] = None
    logprobs: Annotated[
        int | None, Field(ge=0, le=MAX_LOGPROBS, description="Number of alternatives to each token.")
    ] = None
    echo: Annotated[bool | None, Field(description="Whether the text starts with the prompt.")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: Annotated[str | None, Field(max_length=MAX_TEXT, description="Not supported.")] = None
    user: Annotated[str | None, Field(max_length=1000, description="Has no effect.")] = None

    @model_validator(mode="after")
    def _check(self) -> "CreateCompletion":
        n = self.n or 1
        if self.best_of is not None and self.best_of != n:
            raise problem("best_of", "'best_of' must equal 'n': the server returns every completion that it samples.")
        if n * self.prompts > MAX_CHOICES:
            raise problem("n", f"'n' {n} times {self.prompts} prompts are more than {MAX_CHOICES} completions.")
        if self.max_tokens == 0 and not self.echo:
            raise problem("max_tokens", "'max_tokens' 0 needs 'echo': without it the answer would be empty.")
        if self.echo and self.stream and self.logprobs is not None:
            raise problem("logprobs", "'echo' with 'logprobs' cannot be streamed. Leave out 'stream'.")
        if self.stream_options is not None and not self.stream:
            raise problem("stream_options", "'stream_options' needs 'stream'.")
        if self.suffix:
            raise problem("suffix", "'suffix' is not supported: the models continue a text, they fill no gaps.")
        return self

    @property
    def prompts(self) -> int:
        """The number of prompts."""
        several = isinstance(self.prompt, list) and bool(self.prompt) and not isinstance(self.prompt[0], int)
        return len(self.prompt) if several else 1

    def sampling(self) -> Sampling:
        """Return the sampling parameters with OpenAI's defaults for this route."""
        bias = {int(token): value for token, value in self.logit_bias.items()} if self.logit_bias else None
        return Sampling(
            n=self.n or 1,
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=bias,
            logprobs=self.logprobs,
        )


class LegacyLogprobsObject(BaseModel):
    """Log-probabilities by token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: LegacyLogprobsObject | None
    finish_reason: Literal["stop", "length"] | None


class CompletionUsage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The completions of a request, or one chunk of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
