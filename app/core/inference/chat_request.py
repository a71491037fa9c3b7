"""Turns a chat into a request to an engine, and says how its answer is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.core.chat.answer_stream import AnswerStream
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest
from app.core.inference.context import check_beginning, room
from app.core.inference.errors import EngineRefused
from app.core.inference.sampling import Sampling
from app.core.inference.structured import CallMode, CallRules, structured_outputs, uncompiled_schema


@dataclass(frozen=True)
class ChatQuestion:
    """A chat that a model should continue."""

    messages: Sequence[dict[str, Any]]
    """As `chat_messages.read_messages` returns them."""
    sampling: Sampling = field(default_factory=Sampling)
    calls: CallRules = field(default_factory=CallRules)
    schema: dict[str, Any] | None = None
    """JSON schema of the answer's text."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Of the chat template; they replace those of the model's job."""


@dataclass(frozen=True)
class PreparedChat:
    """A request to an engine."""

    tokenizer: ChatTokenizer
    prompt_tokens: int
    body: dict[str, Any]
    """As `Engines.complete` takes it."""
    calls: CallRules

    def reader(self) -> AnswerStream:
        """Return a reader for one completion."""
        form = self.tokenizer.answer_format
        reads_calls, ends = self.calls.mode != CallMode.none, not self.calls.is_parallel
        return AnswerStream(form, self.calls.allowed, reads_calls=reads_calls, ends_with_call=ends)

    def refusal(self, refused: EngineRefused) -> InvalidRequest:
        """Return the engine's refusal with the field of the chat that caused it."""
        message, param = refused.message, refused.param
        if param == "prompt":
            param = "messages"
        elif param == "structured_outputs":
            found = uncompiled_schema(self.body[param]["grammar"], message, self.calls)
            message, param = found or (message, self.calls.param if self.calls.allowed else "response_format")
        return InvalidRequest(message, param=param, code=refused.code)


def prepare(tokenizer: ChatTokenizer, limit: int | None, question: ChatQuestion) -> PreparedChat:
    """Return the request for a chat; `limit` is the number of tokens in the model's context, if it is known.

    Raises `InvalidRequest` for what the model cannot do, and `ContextLengthExceeded`.
    """
    _check_template(tokenizer, question)
    # A model that must not call tools does not see them.
    tools = () if question.calls.mode == CallMode.none else question.calls.allowed
    try:
        check = partial(check_beginning, tokenizer, limit, "messages")
        prompt = tokenizer.prompt(list(question.messages), tools, check)
    except TemplateRefused as refused:
        message = f"{refused.message[0].upper()}{refused.message[1:]}."
        raise InvalidRequest(message, param="messages", code=refused.code) from None
    check_bias(tokenizer, question.sampling)
    outputs = structured_outputs(tokenizer, question.schema, question.calls)
    max_tokens = room(limit, len(prompt.ids), question.sampling.max_tokens, param="messages")
    body = question.sampling.to_body(prompt.ids, max_tokens, tokenizer.end_ids, outputs)
    return PreparedChat(tokenizer, len(prompt.ids), body, question.calls)


def check_bias(tokenizer: ChatTokenizer, sampling: Sampling) -> None:
    """Raises `InvalidRequest` for a bias on a token that the model does not have."""
    for token in sampling.logit_bias or ():
        if tokenizer.backend.id_to_token(token) is None:
            param = f"logit_bias.{token}"
            raise InvalidRequest(f"'{param}': the model has no token {token}. Remove it.", param=param)


def _check_template(tokenizer: ChatTokenizer, question: ChatQuestion) -> None:
    """Raises `InvalidRequest` for parts of the chat that the model's template leaves out."""
    form = tokenizer.answer_format
    shows_tools = bool(question.calls.allowed) and question.calls.mode != CallMode.none
    if shows_tools and not form.renders_tools:
        raise InvalidRequest(
            "The model's chat template does not write tools, so the model would not see them. Use a model whose "
            "template does, or describe the tools in the system message.",
            param="tools",
            code="unsupported_parameter",
        )
    if form.renders_tool_calls:
        return
    for index, message in enumerate(question.messages):
        if message.get("tool_calls"):
            raise InvalidRequest(
                "The model's chat template does not write tool calls, so the model would not see this one. Use a model "
                "whose template does.",
                param=f"messages.{index}.tool_calls",
                code="unsupported_parameter",
            )
