"""Writes the answers to chats in OpenAI's shape, whole and in chunks."""

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.core import ids
from app.core.chat.answer_stream import AnswerDelta, AnswerStream
from app.core.chat.call_format import Call
from app.core.chat.token_bytes import TokenBytes
from app.core.inference.chat_request import PreparedChat
from app.core.inference.engine_answers import ChoiceDelta, EngineChunk, EngineCompletion, TokenLogprob
from app.core.inference.models import ServedModel
from app.core.inference.returned_tokens import ReturnedTokens

_LEAST_LOGPROB: Final = -9999.0
"""OpenAI's value for a token that cannot occur; JSON has no infinity."""

Json = dict[str, Any]


@dataclass(frozen=True)
class ChatForm:
    """How a client wants its answer written."""

    is_legacy: bool = False
    """Whether calls are written as `function_call`."""
    is_forced: bool = False
    """Whether the client has chosen the function: then OpenAI's reason to finish is `stop`."""
    includes_usage: bool = False
    """Whether a stream ends with a chunk that has the usage."""


@dataclass
class _Choice:
    """One completion while it arrives."""

    reader: AnswerStream
    tokens: ReturnedTokens
    reasoning: list[str] = field(default_factory=list)
    calls: int = 0
    has_started: bool = False
    has_content: bool = False
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Those that no chunk has contained yet."""


class ChatAnswer:
    """The answer to one request."""

    def __init__(self, served: ServedModel, chat: PreparedChat, form: ChatForm) -> None:
        self._chat, self._form = chat, form
        self._tokens: TokenBytes = chat.tokenizer.token_bytes
        self._choices: dict[int, _Choice] = {}
        self.completion_tokens = 0
        """Of all completions, as far as they have arrived."""
        self._head = {
            "id": ids.chat_completion_id(),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": served.id,
            "service_tier": "default",
            "system_fingerprint": _fingerprint(served),
        }

    def whole(self, completion: EngineCompletion) -> Json:
        """Return the answer that is not streamed."""
        self.completion_tokens = completion.usage.completion_tokens
        choices = [self._whole_choice(choice) for choice in completion.choices]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def chunks(self, chunk: EngineChunk) -> Iterator[Json]:
        """Yield the chunks that the engine's chunk makes."""
        for delta in chunk.choices:
            self.completion_tokens += len(delta.token_ids)
            choice = self._choice(delta.index)
            choice.logprobs += choice.tokens.take(delta)
            read = _finished(choice.reader, delta) if delta.finish_reason else choice.reader.feed(delta.text)
            for written in self._deltas(choice, read, is_last=delta.finish_reason is not None):
                logprobs = None if written.get("content") == "" else self._taken(choice)
                yield self._chunk(delta.index, written, logprobs)
            if delta.finish_reason:
                logprobs = self._taken(choice) if choice.logprobs else None
                yield self._chunk(delta.index, {}, logprobs, self._finish_reason(delta, choice.calls))

    def last_chunk(self) -> Json | None:
        """Return the chunk with the usage, if the client wants it."""
        if not self._form.includes_usage:
            return None
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def _choice(self, index: int) -> _Choice:
        if index not in self._choices:
            tokens = ReturnedTokens(self._chat.tokenizer, has_stop=bool(self._chat.body["stop"]))
            self._choices[index] = _Choice(self._chat.reader(), tokens)
        return self._choices[index]

    def _whole_choice(self, choice: ChoiceDelta) -> Json:
        state = self._choice(choice.index)
        read = _finished(state.reader, choice)
        state.reasoning.append(read.reasoning)
        message: Json = {
            "role": "assistant",
            "content": read.content if read.content or not read.calls else None,
            "refusal": None,
            "annotations": [],
        }
        if read.reasoning:
            message["reasoning_content"] = read.reasoning
        if read.calls and self._form.is_legacy:
            message["function_call"] = _function(read.calls[0])
        elif read.calls:
            message["tool_calls"] = [_call(call) for call in read.calls]
        logprobs = None if choice.logprobs is None else self._logprobs(state.tokens.take(choice))
        reason = self._finish_reason(choice, len(read.calls))
        return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _deltas(self, choice: _Choice, read: AnswerDelta, *, is_last: bool) -> Iterator[Json]:
        """Yield the deltas of one choice. As OpenAI's, a message begins with empty text, or with a call and no text."""
        if read.reasoning:
            choice.reasoning.append(read.reasoning)
            yield {**_opening(choice, None), "reasoning_content": read.reasoning}
        if read.content:
            if opening := _opening(choice, ""):
                yield opening
            choice.has_content = True
            yield {"content": read.content}
        for call in read.calls:
            written = (
                {"function_call": _function(call)}
                if self._form.is_legacy
                else {"tool_calls": [{"index": choice.calls, **_call(call)}]}
            )
            choice.calls += 1
            yield {**_opening(choice, None), **written}
        if is_last and not choice.has_content and not choice.calls:
            yield _opening(choice, "") or {"content": ""}

    def _chunk(self, index: int, delta: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return chunk | {"usage": None} if self._form.includes_usage else chunk

    def _finish_reason(self, choice: ChoiceDelta, calls: int) -> str | None:
        if choice.finish_reason == "stop" and calls and not self._form.is_forced:
            return "function_call" if self._form.is_legacy else "tool_calls"
        return choice.finish_reason

    def _usage(self) -> Json:
        reasoning = ["".join(choice.reasoning) for choice in self._choices.values()]
        return {
            "prompt_tokens": self._chat.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self._chat.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": sum(self._chat.tokenizer.size(text) for text in reasoning if text),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _taken(self, choice: _Choice) -> Json | None:
        """Return the log-probabilities for the next chunk of a choice, if the client wants any."""
        if self._chat.body["logprobs"] is None:
            return None
        taken, choice.logprobs = choice.logprobs, []
        return self._logprobs(taken)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        count = self._chat.body["logprobs"]
        written = []
        for token in tokens:
            best = sorted(token.top, key=lambda pair: -pair[1])[:count]
            top = [self._token(token_id, logprob) for token_id, logprob in best]
            written.append({**self._token(token.token_id, token.logprob), "top_logprobs": top})
        return {"content": written, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> Json:
        written = self._tokens.of(token_id)
        text = written.decode(errors="replace")
        return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(written)}


def _opening(choice: _Choice, content: str | None) -> Json:
    """Return the fields that begin a streamed message; none if it has begun."""
    if choice.has_started:
        return {}
    choice.has_started = True
    return {"role": "assistant", "content": content, "refusal": None}


def _finished(reader: AnswerStream, choice: ChoiceDelta) -> AnswerDelta:
    return reader.finish(choice.text, is_cut=choice.finish_reason == "length")


def _call(call: Call) -> Json:
    """Return a call with an id of its own; most models write none."""
    return {"id": call.id or f"call_{secrets.token_hex(12)}", "type": "function", "function": _function(call)}


def _function(call: Call) -> Json:
    return {"name": call.name, "arguments": call.arguments}


def _fingerprint(served: ServedModel) -> str:
    weights = f"{served.base.name}\n{served.adapter.blob if served.adapter else ''}"
    return f"fp_{hashlib.sha256(weights.encode()).hexdigest()[:10]}"
