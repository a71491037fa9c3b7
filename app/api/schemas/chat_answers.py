"""The answer of `POST /v1/chat/completions`, for the OpenAPI document; `app/api/chat_answers.py` writes it."""

from typing import Literal

from pydantic import Field

from app.core.spec.described import Described


class TokenAlternative(Described):
    """A token that the model might have written."""

    token: str
    """The token's text."""
    logprob: float
    """Natural logarithm of the token's probability."""
    bytes: list[int]
    """The token's UTF-8 bytes; a token can be a part of a character."""


class WrittenToken(TokenAlternative):
    """A token that the model wrote."""

    top_logprobs: list[TokenAlternative]
    """The most probable tokens at this position, as many as `top_logprobs` requests."""


class ChoiceLogprobs(Described):
    """Log-probabilities of a choice, at temperature 1."""

    content: list[WrittenToken]
    """The tokens of the answer, thoughts and marks included."""
    refusal: None
    """Always null: OpenAI's field for refusals."""


class CalledFunction(Described):
    """A function and its arguments."""

    name: str
    """Name of the function."""
    arguments: str = Field(description="JSON text.")


class ToolCall(Described):
    """A tool call."""

    id: str
    """Identifies the call; send it back as `tool_call_id` with the result."""
    type: Literal["function"]
    function: CalledFunction
    """The function to call, and its arguments."""


class ChatMessage(Described):
    """The message of the model."""

    role: Literal["assistant"]
    content: str | None
    """The answer's text; null if the answer consists of calls."""
    refusal: None
    """Always null: OpenAI's field for refusals."""
    annotations: list[str]
    """Always empty: OpenAI's field for web citations."""
    reasoning_content: str | None = Field(default=None, description="The model's thoughts.")
    tool_calls: list[ToolCall] | None = None
    """The calls that the model makes."""
    function_call: CalledFunction | None = Field(default=None, description="For requests with `functions`.")


class ChatChoice(Described):
    """One answer."""

    index: int
    """Position of the answer, from 0."""
    message: ChatMessage
    """The answer."""
    logprobs: ChoiceLogprobs | None
    """Log-probabilities of the tokens; null unless `logprobs` is true."""
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]
    """`stop`: the model ended the answer, or wrote a stop string. `length`: the answer reached its token limit.
    `tool_calls` or `function_call`: it ends with calls."""


class PromptDetails(Described):
    """Parts of the prompt's tokens."""

    cached_tokens: int
    """Always 0: the engines do not report it."""
    audio_tokens: int
    """Always 0: the models read text."""


class CompletionDetails(Described):
    """Parts of the answers' tokens."""

    reasoning_tokens: int
    """Tokens of the thoughts."""
    audio_tokens: int
    """Always 0: the models write text."""
    accepted_prediction_tokens: int
    """Always 0: `prediction` has no effect."""
    rejected_prediction_tokens: int
    """Always 0: `prediction` has no effect."""


class ChatUsage(Described):
    """Tokens of one request."""

    prompt_tokens: int
    """Tokens of the rendered chat."""
    completion_tokens: int
    """Tokens of all answers."""
    total_tokens: int
    """The sum of both."""
    prompt_tokens_details: PromptDetails
    """Parts of the prompt's tokens."""
    completion_tokens_details: CompletionDetails
    """Parts of the answers' tokens."""


class ChatCompletion(Described):
    """The answer to a chat."""

    id: str
    """Identifies the answer."""
    object: Literal["chat.completion"]
    created: int
    """Unix seconds."""
    model: str
    """The model that answered; the name behind an alias."""
    service_tier: str
    """Always `default`."""
    system_fingerprint: str
    """Changes when another model or adapter answers."""
    choices: list[ChatChoice]
    """The answers, as many as `n`."""
    usage: ChatUsage
    """Tokens of the request."""
