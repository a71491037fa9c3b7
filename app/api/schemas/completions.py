"""Bodies of `/v1/completions`, OpenAI's legacy route for plain text."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.api.ids import MAX_MODEL_NAME
from app.api.schemas.chat_completions import StreamOptions
from app.api.schemas.openai_fields import problem
from app.core.inference.sampling import Sampling
from app.core.plurals import plural
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen

MAX_PROMPTS = 16
MAX_CHOICES = 128
"""Prompts times `n`: the completions of one request."""
MAX_TEXT = 4_000_000
MAX_TOKENS = 1_048_576
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16

Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenId = Annotated[int, Field(strict=True, ge=0, le=2_147_483_647)]
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
    """A base model, a fine-tuned model (`ft:...`), one of its checkpoints, or an alias."""
    prompt: Annotated[
        Prompt, Field(description="One or several prompts, as text or as token ids. No chat template is applied.")
    ]
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES, description="Completions of each prompt.")] = None
    best_of: Annotated[int | None, Field(ge=1, le=MAX_CHOICES, description="Must equal `n`.")] = None
    max_tokens: Annotated[
        int | None, Field(ge=0, le=MAX_TOKENS, description="Tokens of each completion; 0 only with `echo`.")
    ] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    """Sampling temperature; 1 by default, and 0 always takes the most probable token."""
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    """Samples from the most probable tokens that together have this probability; 1 by default, 0 for only one."""
    seed: Annotated[int | None, Field(ge=-(2**63), le=2**63 - 1)] = None
    """Seed of the sampling, for the same completion again."""
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    """Texts that end a completion; the completion does not contain them."""
    presence_penalty: Penalty | None = None
    """Subtracted from the logit of every token that the completion already has; 0 by default."""
    frequency_penalty: Penalty | None = None
    """Subtracted from a token's logit once for each time that the completion already has the token; 0 by default."""
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None,
        Field(max_length=1024, description="Token id -> bias."),
    ] = None
    logprobs: Annotated[
        int | None, Field(ge=0, le=MAX_LOGPROBS, description="Number of alternatives to each token.")
    ] = None
    echo: Annotated[bool | None, Field(description="Whether the text starts with the prompt.")] = None
    stream: bool | None = None
    """Whether the completions are sent in chunks, as server-sent events, while the model writes them."""
    stream_options: StreamOptions | None = None
    """Options of the stream; needs `stream`."""
    suffix: Annotated[str | None, Field(max_length=MAX_TEXT, description="Not supported.")] = None
    user: Annotated[str | None, Field(max_length=1000, description="Has no effect.")] = None

    @model_validator(mode="after")
    def _check(self) -> "CreateCompletion":
        n = self.n or 1
        if self.best_of is not None and self.best_of != n:
            raise problem("best_of", "'best_of' must equal 'n': the server returns every completion that it samples.")
        if n * self.prompts > MAX_CHOICES:
            raise problem(
                "n", f"'n' {n} for {plural(self.prompts, 'prompt')} makes more than {MAX_CHOICES} completions."
            )
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


class LegacyLogprobsObject(Described):
    """Log-probabilities by token."""

    tokens: list[str]
    """The text of each token."""
    token_logprobs: list[float | None]
    """Natural logarithm of each token's probability; null for the first token of an echoed prompt."""
    top_logprobs: list[dict[str, float] | None]
    """The most probable tokens at each position with their log-probabilities."""
    text_offset: list[int]
    """Position of each token in the text, in characters."""


class CompletionChoice(Described):
    """One completion."""

    index: int
    """Position of the completion, from 0: the completions of the first prompt, then those of the next."""
    text: str
    """The completion; with `echo` the prompt comes first."""
    logprobs: LegacyLogprobsObject | None
    """Log-probabilities of the tokens; null unless `logprobs` is set."""
    finish_reason: Literal["stop", "length"] | None
    """`stop`: the model ended the text, or wrote a stop string. `length`: the completion reached its token
    limit. Null in a chunk that is not the last one."""


class CompletionUsage(Described):
    """Tokens of a request."""

    prompt_tokens: int
    """Tokens of all prompts."""
    completion_tokens: int
    """Tokens of all completions."""
    total_tokens: int
    """The sum of both."""


class Completion(Described):
    """The completions of a request, or one chunk of them."""

    id: str
    """Identifies the response."""
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Unix seconds."""
    model: str
    """The model that answered; the name behind an alias."""
    choices: list[CompletionChoice]
    """The completions, `n` for each prompt."""
    usage: CompletionUsage | None = None
    """Tokens of the request; in a stream only in the last chunk, if it is requested."""
