"""Reads a model's text apart into thoughts, answer and tool calls, by the format of its own chat template.

Sample messages are rendered and compared: the template that writes answers for training also shows how to read them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from app.core.chat.answer_stream import AnswerMarks, AnswerStream
from app.core.chat.call_probe import FIRST, TOOLS, find_calls, sample_calls
from app.core.chat.continuation import Renderer
from app.core.chat.marks import common_start
from app.core.chat.templates import TemplateRefused
from app.core.spec.answers import ParsedAnswer

Messages = list[dict[str, Any]]

_QUESTION: Final = {"role": "user", "content": "probe_question"}
_ANSWER: Final = "probe_answer"
_THOUGHT: Final = "probe_thought"
_TAG: Final = re.compile(r"<[^<>\s]+>")
_FIRST_MARK: Final = re.compile(r"\s*(<[^<>]+>|\S+)")
_CONVENTION: Final = ("<think>", "</think>")


@dataclass(frozen=True)
class AnswerFormat(AnswerMarks):
    """How a model's chat template writes answers."""

    renders_tools: bool
    """Whether the template shows tools to the model."""
    renders_tool_calls: bool
    """Whether the template writes the tool calls of messages."""

    @classmethod
    def derive(cls, templates: Renderer) -> "AnswerFormat":
        """Render sample messages and return the format that they show."""
        turn = _Turn(templates)
        thoughts = turn.thoughts()
        start, end = turn.content_marks(thoughts)
        at = turn.prompt.rfind(thoughts[0]) if thoughts else -1
        return cls(
            thoughts=thoughts,
            opened=turn.prompt[at:] if at >= 0 else "",
            content_start=start,
            content_end=end,
            calls=find_calls(turn.body, thoughts[1] if thoughts else "", end),
            renders_tools=turn.renders_tools,
            renders_tool_calls=turn.renders_calls,
        )

    def parse(
        self, text: str, tools: Sequence[dict[str, Any]] | None = None, opened: str | None = None
    ) -> ParsedAnswer:
        """Read the text that a model wrote behind its generation prompt. Never raises.

        The parameters of `tools` say which values are text where the model's format does not. `opened` replaces what
        the generation prompt wrote of the thoughts. Thoughts without an end leave no answer. A call that cannot be
        read stays in the text.
        """
        if opened == "" and self._lacks_opening(text):
            opened = self.thoughts[0] if self.thoughts else ""
        whole = self.stream(tools, opened).finish(text)
        calls = tuple(call.to_wire(index) for index, call in enumerate(whole.calls))
        return ParsedAnswer(whole.content, whole.reasoning, calls)

    def stream(self, tools: Sequence[dict[str, Any]] | None = None, opened: str | None = None) -> AnswerStream:
        """Return a reader for an answer that arrives in parts; it takes the arguments of `parse`."""
        return AnswerStream(self, tools, opened)

    def _lacks_opening(self, text: str) -> bool:
        """Return whether a text ends thoughts that it does not start, as where a prompt wrote the start."""
        if self.thoughts is None:
            return False
        start, end = self.thoughts
        thoughts, found, _ = text.partition(end)
        return bool(found) and _TAG.fullmatch(end) is not None and start not in thoughts


class _Turn:
    """What a template writes for an assistant's message behind the header of its turn."""

    def __init__(self, templates: Renderer) -> None:
        self._templates = templates
        self._without = {bool(tools): self._text([_QUESTION], tools) or "" for tools in (None, TOOLS)}
        self.renders_tools = FIRST in self._without[True]
        prompt = self._text([_QUESTION], None, for_answer=True) or ""
        self.prompt = prompt[len(common_start(prompt, self._without[False])) :]
        """The generation prompt."""
        call = {"content": None, "tool_calls": sample_calls((FIRST, {}))}
        thoughts = {"reasoning_content": _THOUGHT}
        messages: list[dict[str, Any]] = [{"content": _ANSWER}, {"content": _ANSWER} | thoughts, call, call | thoughts]
        self._header = ""
        bodies = [self.body(message) for message in messages]
        self._header = reduce(common_start, [body for body in bodies if body is not None], self.prompt)
        self._answer, self._thoughtful, self._call, self._thoughtful_call = map(self.body, messages)
        self.renders_calls = FIRST in (self._call or "")

    def body(self, message: dict[str, Any]) -> str | None:
        """Return what the template writes for an assistant's message, or None if it refuses the message."""
        tools = TOOLS if "tool_calls" in message else None
        whole = self._text([_QUESTION, {"role": "assistant", **message}], tools)
        if whole is None:
            return None
        return whole[len(common_start(whole, self._without[bool(tools)])) :].removeprefix(self._header)

    def thoughts(self) -> tuple[str, str] | None:
        """Return what the template, or else a convention that it mentions, writes before and after thoughts."""
        found = next((t for t in (self._thoughtful, self._thoughtful_call) if t and _THOUGHT in t), None)
        if found is None:
            return _CONVENTION if self._mentions_thoughts() else None
        before, _, after = found.partition(_THOUGHT)
        start = before.strip() or next(iter(_TAG.findall(self._header)[::-1]), "")
        mark = _FIRST_MARK.match(after)
        end = mark[1] if mark else ""
        header = self._header.strip()
        if header and header in after.partition(_ANSWER)[0]:  # the answer has a turn of its own
            end = after[: after.index(header) + len(header)].strip()
        return (start, end) if start and end else None

    def _mentions_thoughts(self) -> bool:
        opener, closer = _CONVENTION
        history = {"role": "assistant", "content": f"{opener}{_THOUGHT}{closer}{_ANSWER}"}
        shown = self._text([_QUESTION, history, _QUESTION], None) or ""
        if _ANSWER in shown and _THOUGHT not in shown:
            return True
        return any(mark in text for mark in _CONVENTION for text in (self.prompt, self._without[False]))

    def content_marks(self, thoughts: tuple[str, str] | None) -> tuple[str, str]:
        """Return what the template writes before and after an answer's text."""
        before, found, after = (self._answer or "").partition(_ANSWER)
        if not found:
            return "", ""
        start = before.rpartition(thoughts[1])[2].strip() if thoughts else before
        end = _FIRST_MARK.match(after)
        return start, end[1] if end else ""

    def _text(self, messages: Messages, tools: Messages | None, *, for_answer: bool = False) -> str | None:
        try:
            return self._templates.render(messages, tools, for_answer=for_answer)
        except TemplateRefused:
            return None
