"""Writes answers in the shape of the Responses API: as events of a stream, and whole."""

import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from app.api.schemas.responses import CreateResponse
from app.api.streamed_answer import error_body
from app.core import ids
from app.core.chat.answer_stream import AnswerDelta
from app.core.chat.call_format import Call
from app.core.errors import GrouptuneError
from app.core.inference.chat_request import PreparedChat
from app.core.inference.engine_answers import ChoiceDelta, EngineChunk, EngineCompletion
from app.core.inference.models import ServedModel

Json = dict[str, Any]

_PREFIXES: Final = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}


class ResponseAnswer:
    """The answer to one request. Its events number themselves."""

    def __init__(self, served: ServedModel, chat: PreparedChat, body: CreateResponse) -> None:
        self._chat, self._body = chat, body
        self._reader = chat.reader()
        self._numbers = 0
        self._open: _OpenText | None = None
        self._output: list[Json] = []
        self._thoughts: list[str] = []
        self.completion_tokens = 0
        """As far as they have arrived."""
        self._response = self._head(served)

    def whole(self, completion: EngineCompletion) -> Json:
        """Return the answer that is not streamed."""
        self.completion_tokens = completion.usage.completion_tokens
        for _ in self._choice(completion.choices[0]):
            pass
        return self._response

    def opening(self) -> Iterator[Json]:
        """Yield the events before the first token."""
        yield self._event("response.created", response=dict(self._response))
        yield self._event("response.in_progress", response=dict(self._response))

    def events(self, chunk: EngineChunk) -> Iterator[Json]:
        """Yield the events that the engine's chunk makes."""
        for choice in chunk.choices:
            self.completion_tokens += len(choice.token_ids)
            yield from self._choice(choice)

    def failure(self, error: GrouptuneError) -> Json:
        """Return the event of an error that ends the stream.

        OpenAI documents the fields of the event, and its SDK raises an exception for `error`.
        """
        named = {"code": error.code, "message": error.message_for_clients, "param": error.param}
        return self._event("error", **named, error=error_body(error))

    def _choice(self, choice: ChoiceDelta) -> Iterator[Json]:
        if choice.finish_reason is None:
            yield from self._read(self._reader.feed(choice.text))
            return
        is_cut = choice.finish_reason == "length"
        yield from self._read(self._reader.finish(choice.text, is_cut=is_cut))
        if not self._output and self._open is None:
            yield from self._start("message")  # an empty answer is a message without text
        yield from self._close()
        yield self._end(is_cut)

    def _read(self, read: AnswerDelta) -> Iterator[Json]:
        if read.reasoning:
            self._thoughts.append(read.reasoning)
            yield from self._text("reasoning", read.reasoning)
        if read.content:
            yield from self._text("message", read.content)
        for call in read.calls:
            yield from self._call(call)

    def _text(self, kind: str, text: str) -> Iterator[Json]:
        if self._open is None or self._open.kind != kind:
            yield from self._close()
            yield from self._start(kind)
        if self._open is not None:
            self._open.parts.append(text)
            yield self._event(f"{self._open.events}.delta", **self._open.place, delta=text, **self._open.extra)

    def _start(self, kind: str) -> Iterator[Json]:
        opened = self._open = _OpenText(kind, len(self._output))
        yield self._event("response.output_item.added", output_index=opened.index, item=opened.item("in_progress"))
        yield self._event("response.content_part.added", **opened.place, part=opened.part(""))

    def _close(self) -> Iterator[Json]:
        """End the item whose text is arriving, if there is one."""
        closed, self._open = self._open, None
        if closed is None:
            return
        text = "".join(closed.parts)
        yield self._event(f"{closed.events}.done", **closed.place, text=text, **closed.extra)
        yield self._event("response.content_part.done", **closed.place, part=closed.part(text))
        yield self._done(closed.item("completed", text))

    def _call(self, call: Call) -> Iterator[Json]:
        """Yield the events of a call: the model's format shows it only once it is complete."""
        yield from self._close()
        item = {
            "id": _new_id("function_call"),
            "type": "function_call",
            "call_id": call.id or f"call_{secrets.token_hex(12)}",
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        index = len(self._output)
        place = {"item_id": item["id"], "output_index": index}
        yield self._event("response.output_item.added", output_index=index, item=dict(item))
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        yield self._done({**item, "arguments": call.arguments, "status": "completed"})

    def _done(self, item: Json) -> Json:
        self._output.append(item)
        return self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _end(self, is_cut: bool) -> Json:
        if is_cut and self._output[-1]["type"] != "function_call":  # calls are whole, or left out
            self._output[-1]["status"] = "incomplete"
        self._response |= {
            "status": "incomplete" if is_cut else "completed",
            "completed_at": None if is_cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._output,
            "usage": self._usage(),
        }
        return self._event("response.incomplete" if is_cut else "response.completed", response=self._response)

    def _event(self, kind: str, **fields: Any) -> Json:
        self._numbers += 1
        return {"type": kind, "sequence_number": self._numbers - 1, **fields}

    def _usage(self) -> Json:
        reasoning = "".join(self._thoughts)
        return {
            "input_tokens": self._chat.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._chat.tokenizer.size(reasoning) if reasoning else 0},
            "total_tokens": self._chat.prompt_tokens + self.completion_tokens,
        }

    def _head(self, served: ServedModel) -> Json:
        """Return the response before its first token, with the settings that apply."""
        body = self._body
        sent = body.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            "id": ids.response_id(),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": sent.get("metadata") or {},
            "model": served.id,
            "output": [],
            "parallel_tool_calls": self._chat.calls.is_parallel,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": self._chat.body["temperature"],
            "text": sent.get("text") or {"format": {"type": "text"}},
            "tool_choice": sent.get("tool_choice", "auto"),
            "tools": sent.get("tools", []),
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": sent.get("user"),
        }


class _OpenText:
    """An item of text that is arriving: a message, or thoughts."""

    def __init__(self, kind: str, index: int) -> None:
        self.kind, self.index = kind, index
        self.parts: list[str] = []
        self._id = _new_id(kind)
        self.place: Json = {"item_id": self._id, "output_index": index, "content_index": 0}
        self.events = "response.output_text" if kind == "message" else "response.reasoning_text"
        self.extra: Json = {"logprobs": []} if kind == "message" else {}

    def part(self, text: str) -> Json:
        """Return the item's content with this text."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def item(self, status: str, text: str | None = None) -> Json:
        """Return the item; without content until it has its text."""
        item: Json = {"id": self._id, "type": self.kind, "status": status}
        item["content"] = [] if text is None else [self.part(text)]
        if self.kind == "reasoning":
            return {**item, "summary": []}
        return {**item, "role": "assistant"}


def _new_id(kind: str) -> str:
    return _PREFIXES[kind] + secrets.token_hex(12)
