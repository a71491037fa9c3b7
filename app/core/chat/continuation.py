"""The text that a model writes for an answer: the rendering with the answer minus the rendering without.

Between the generation prompt and an answer, templates write what the model itself has to write: an empty thought, a
channel header, a space. Some templates contradict themselves: the generation prompt opens a thought that the rendering
of an answer lacks. At inference the model continues the prompt, so the prompt decides.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from app.core.chat.templates import TemplateRefused

_SENTINEL: Final = "\u00a7answer\u00a7"
_OWN_THOUGHTS: Final = re.compile(r"\s*<think>\s*(.*?)\s*</think>\s*(.*)", re.DOTALL)
"""Thoughts that a row has in the text of an answer."""
_THOUGHT_TAG: Final = re.compile("</?think>")
_OPEN_THOUGHT: Final = re.compile(r"<([\w:|-]*think[\w:|-]*)>\s*\Z")


def common_length(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the length of the longest prefix of both."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


class Renderer(Protocol):
    """Renders chats with one model's template and one job's variables."""

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, *, for_answer: bool) -> str:
        """See `ChatTemplates.render`."""


@dataclass(frozen=True)
class Continuation:
    """The text that the model should write after the prompt, up to what the template adds behind the answer."""

    text: str
    content: range
    """Where the answer proper stands in `text`, after the thoughts: characters as written in the row, or empty if the
    message only calls tools."""
    thoughts: range
    """Where the thoughts of the row stand in `text`; empty without thoughts."""
    unwritten: tuple[str, ...] = ()
    """Parts of the message that the template leaves out: `thoughts`, or (a part of) the `text`."""


def continuation(
    templates: Renderer,
    messages: list[dict[str, Any]],
    answer: dict[str, Any],
    tools: list[dict[str, Any]] | None,
    prompt: str,
) -> Continuation:
    """Return what the model should write for `answer` after `prompt`, the rendering of `messages`.

    Raises `TemplateRefused`.
    """
    answer = _with_thoughts_apart(templates, messages, answer, tools, prompt)
    text = _rest(templates, messages, answer, tools, prompt)
    calls = answer.get("tool_calls", ())
    if lost := [call["function"]["name"] for call in calls if call["function"]["name"] not in text]:
        raise TemplateRefused(
            f"the model's chat template does not write tool calls, so the call of {lost[0][:60]} cannot be trained"
        )

    def located(field: str) -> range:
        def with_sentinel() -> str:
            return _rest(templates, messages, {**answer, field: _SENTINEL}, tools, prompt)

        return _place(text, answer.get(field) or "", with_sentinel)

    content, thoughts = located("content"), located("reasoning_content")
    unwritten = []
    if answer.get("content") and not content:
        is_written = _SENTINEL in _rest(templates, messages, {**answer, "content": _SENTINEL}, tools, prompt)
        if not (is_written or calls):
            raise TemplateRefused("the model's chat template does not write the text of an answer")
        # A template may rewrite the text, but a part that is missing from the rendering is reported.
        parts = filter(None, map(str.strip, _THOUGHT_TAG.split(answer["content"])))
        unwritten = [] if is_written and all(part in text for part in parts) else ["text"]
    if answer.get("reasoning_content") and not thoughts:
        unwritten.append("thoughts")
    return Continuation(text, content, thoughts, tuple(unwritten))


def _with_thoughts_apart(
    templates: Renderer,
    messages: list[dict[str, Any]],
    answer: dict[str, Any],
    tools: list[dict[str, Any]] | None,
    prompt: str,
) -> dict[str, Any]:
    """Return the answer with the thoughts in its text moved to `reasoning_content`, if the template treats both alike.

    Where the rendering contradicts the prompt, only `reasoning_content` separates the thoughts from the answer:
    templates drop thoughts in the text, or write them behind the empty thought of the prompt.
    """
    own = _OWN_THOUGHTS.fullmatch(answer.get("content") or "")
    if own is None or answer.get("reasoning_content") or not (own[2] or answer.get("tool_calls")):
        return answer
    apart = {**answer, "reasoning_content": own[1], "content": own[2] or None}
    whole = templates.render([*messages, answer], tools, for_answer=False)
    if whole.startswith(prompt) and templates.render([*messages, apart], tools, for_answer=False) != whole:
        return answer
    return apart


def _rest(
    templates: Renderer,
    messages: list[dict[str, Any]],
    answer: dict[str, Any],
    tools: list[dict[str, Any]] | None,
    prompt: str,
) -> str:
    """Return what follows the prompt in the rendering with the answer."""
    whole = templates.render([*messages, answer], tools, for_answer=False)
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    history = templates.render(messages, tools, for_answer=False)
    if not (whole.startswith(history) and prompt.startswith(history)):
        raise TemplateRefused(
            "the model's chat template changes earlier messages when the answer is added, so the tokens of the answer "
            "are unknown; use another base model or chat template"
        )
    opening, turn = prompt[len(history) :], whole[len(history) :]
    same = common_length(opening, turn)
    same = opening.rfind("<", 0, same) if "<" in opening[opening.rfind(">", 0, same) + 1 : same] else same  # whole tags
    rest = turn[same:]
    opened = _OPEN_THOUGHT.search(opening)
    if opened is not None and opened.start() >= same and not rest.lstrip().startswith(f"</{opened[1]}>"):
        return f"{answer.get('reasoning_content') or ''}\n</{opened[1]}>\n\n{rest}"
    if opened is None and answer.get("reasoning_content"):
        # The prompt has closed an empty thought, so the model cannot write one: the row's thoughts are left out.
        plain = {name: value for name, value in answer.items() if name != "reasoning_content"}
        return _rest(templates, messages, plain, tools, prompt)
    return rest


def _place(text: str, part: str, render_sentinel: Callable[[], str]) -> range:
    """Return where `text` contains `part`, which the template may have stripped; an empty range if it does not."""
    for wanted in (part, part.strip()):
        if not wanted:
            continue
        count = text.count(wanted)
        if count == 1:
            start = text.index(wanted)
            return range(start, start + len(wanted))
        if count > 1:  # "4" or "end" may be part of what the template writes around it
            before, found, after = render_sentinel().partition(_SENTINEL)
            end = len(text) - len(after)
            if found and text.startswith(before) and text.endswith(after) and text[len(before) : end] == wanted:
                return range(len(before), end)
    return range(0)
