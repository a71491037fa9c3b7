"""The answer of `POST /v1/chat/completions`, for the OpenAPI document; `app/api/chat_answers.py` writes it."""

from typing import Literal

from pydantic import BaseModel, Field


class TokenAlternative(BaseModel):
    """A token that the model might have written."""

    token: str
    logprob: float
    bytes: list[int]


class WrittenToken(TokenAlternative):
    """A token that the model wrote."""

    top_logprobs: list[TokenAlternative]


class ChoiceLogprobs(BaseModel):
    """Log-probabilities of a choice, at temperature 1."""

    content: list[WrittenToken]
    refusal: None


class CalledFunction(BaseModel):
    """A function and its arguments."""

    name: str
    arguments: str = Field(description="JSON text.")


class ToolCall(BaseModel):
    """A tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(BaseModel):
    """The message of the model."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[str]
    reasoning_content: str | None = Field(default=None, description="The model's thoughts.")
    tool_calls: list[ToolCall] | None = None
    function_call: CalledFunction | None = Field(default=None, description="For requests with `functions`.")


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class PromptDetails(BaseModel):
    """Parts of the prompt's tokens."""

    cached_tokens: int
    audio_tokens: int


class CompletionDetails(BaseModel):
    """Parts of the answers' tokens."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class ChatUsage(BaseModel):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatCompletion(BaseModel):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    service_tier: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: ChatUsage
