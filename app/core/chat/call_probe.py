"""Finds out how a chat template writes tool calls: renders sample calls and compares the results."""

import re
from collections.abc import Callable
from typing import Any, Final

from app.core.chat.call_format import NAME, CallFormat, CallSyntax, JsonObject, NamedArguments, NameThenJson
from app.core.chat.literals import read_json
from app.core.chat.marks import common_end, common_start

Body = Callable[[dict[str, Any]], str | None]
"""Renders an assistant message behind a question: what the template adds for it, or None if it refuses."""

FIRST: Final = "probe_first"
SECOND: Final = "probe_second"
_KEY: Final = "probe_key"
_OTHER: Final = "probe_other"
_TEXT: Final = "probe_text"
_NUMBER: Final = 48151
_OTHER_NUMBER: Final = 62342
_IDS: Final = ("probeid01", "probeid02")  # Mistral's templates require nine characters
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A sample.",
            "parameters": {"type": "object", "properties": {_KEY: {"type": "integer", "description": "A sample."}}},
        },
    }
    for name in (FIRST, SECOND)
]


def find_calls(body: Body, thoughts_end: str, end: str) -> CallFormat | None:
    """Return how the template writes calls, or None if it writes none that can be read.

    `thoughts_end` is what ends thoughts, `end` what ends an answer; empty if nothing does.
    """
    probe = _Probe(body)
    one = probe.text((FIRST, {_KEY: _NUMBER}))
    syntax, spans = probe.syntax(one)
    if syntax is None or not (found := spans(one, FIRST)):
        return None
    lead, text_start = probe.lead(_masked(one[: found[0][0]], FIRST), spans)
    if thoughts_end:
        lead, text_start = lead.rpartition(thoughts_end)[2], text_start.rpartition(thoughts_end)[2]
    after = one[found[0][1] :].partition(end)[0] if end else one[found[0][1] :]
    two = probe.text((FIRST, {_KEY: _NUMBER}), (SECOND, {_KEY: _NUMBER}))
    if not (first := spans(two, FIRST)) or not (second := spans(two, SECOND)):
        return CallFormat("", lead, syntax, after, separator="", closing="", text_start=text_start.strip())
    gap = _masked(two[first[0][1] : second[-1][0]], SECOND)
    after = two[second[-1][1] :].partition(end)[0] if end else two[second[-1][1] :]
    head = common_end(lead, gap)
    rest = gap[: len(gap) - len(head)]
    tail = common_start(rest, after)
    return CallFormat(
        opening=lead[: len(lead) - len(head)],
        head=head,
        syntax=syntax,
        tail=tail,
        separator=rest[len(tail) :],
        closing=after[len(tail) :],
        text_start=text_start.strip(),
    )


Spans = Callable[[str, str], list[tuple[int, int]]]
"""Finds the calls of a function in a rendering, by its name: their first and last positions."""


class _Probe:
    def __init__(self, body: Body) -> None:
        self._body = body

    def text(self, *calls: tuple[str, dict[str, Any]], **fields: str) -> str:
        """Return the rendering of the calls; empty if the template refuses them."""
        return self._body({"content": None, **fields, "tool_calls": sample_calls(*calls)}) or ""

    def syntax(self, one: str) -> tuple[CallSyntax | None, Spans]:
        """Return how a call is written in the rendering, and a function that finds calls written so."""
        if FIRST not in one or str(_NUMBER) not in one:
            return None, _object_spans
        if found := _json_object(one):
            return found, _object_spans
        if spans := _named_json_spans(one, FIRST):
            start, end = spans[0]
            return NameThenJson(one[start + len(FIRST) : one.rindex("{", start, end)]), _named_json_spans
        return self._named_arguments(one)

    def _named_arguments(self, one: str) -> tuple[CallSyntax | None, Spans]:
        none, text = self.text((FIRST, {})), self.text((FIRST, {_KEY: _TEXT}))
        both = self.text((FIRST, {_KEY: _NUMBER, _OTHER: _OTHER_NUMBER}))
        hard = self.text((FIRST, {_KEY: f"{_TEXT}'{_TEXT}"}))
        if _KEY not in one or str(_OTHER_NUMBER) not in both or _TEXT not in text or FIRST not in none:
            return None, _object_spans
        start = one.rindex(FIRST, 0, one.index(_KEY)) + len(FIRST)
        lead = one[start : one.index(_KEY, start)]
        after_key = one[start + len(lead) + len(_KEY) : one.index(str(_NUMBER), start)]
        gap = both[both.index(str(_NUMBER)) + len(str(_NUMBER)) : both.index(_OTHER)]
        after = one[one.index(str(_NUMBER), start) + len(str(_NUMBER)) :]
        shared = common_start(lead, none[none.rindex(FIRST) + len(FIRST) :])
        before_key = common_end(lead[len(shared) :], gap)
        gap = gap[: len(gap) - len(before_key)]
        after_value = common_start(gap, after)
        key = text.index(_KEY, text.rindex(FIRST, 0, text.index(_KEY))) + len(_KEY)
        quote = text[key + len(after_key) : text.index(_TEXT, key)]
        syntax = NamedArguments(
            between=lead[: len(lead) - len(before_key)],
            before_key=before_key,
            after_key=after_key,
            after_value=after_value,
            separator=gap[len(after_value) :],
            quote=quote,
            escapes=quote != "'" or f"{_TEXT}'{_TEXT}" not in hard,
        )
        return syntax, lambda body, name: _argument_spans(body, name, after_value)

    def lead(self, alone: str, spans: Spans) -> tuple[str, str]:
        """Return what precedes the first call after any text, and what precedes text before a call.

        `alone` is what precedes a call without text.
        """
        text_start = ""
        for field in ("reasoning_content", "content"):
            body = self.text((FIRST, {_KEY: _NUMBER}), **{field: _TEXT})
            if (found := spans(body, FIRST)) and _TEXT in (start := _masked(body[: found[0][0]], FIRST)):
                before, _, after = start.rpartition(_TEXT)
                text_start = before if field == "content" else ""
                alone = common_end(alone, after)
        return alone, text_start


def sample_calls(*calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return calls in OpenAI's shape, with objects as arguments."""
    return [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, (name, arguments) in zip(_IDS, calls, strict=False)
    ]


def _objects(body: str) -> list[tuple[dict[str, Any], int, int]]:
    """Return all JSON objects in the text, outer ones first, with their positions."""
    found = []
    for match in re.finditer(r"\{", body):
        try:
            value, end = read_json(body, match.start())
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append((value, match.start(), end))
    return found


def _json_object(body: str) -> JsonObject | None:
    for value, _, _ in _objects(body):
        names = [key for key, field in value.items() if field == FIRST]
        arguments = [key for key, field in value.items() if field == {_KEY: _NUMBER}]
        if names and arguments:
            return JsonObject(names[0], arguments[0], next((k for k, field in value.items() if field == _IDS[0]), None))
    return None


def _object_spans(body: str, name: str) -> list[tuple[int, int]]:
    return [
        (start, end)
        for value, start, end in _objects(body)
        if name in value.values() and {_KEY: _NUMBER} in value.values()
    ]


def _named_json_spans(body: str, name: str) -> list[tuple[int, int]]:
    return [
        (body.rindex(name, 0, start), end)
        for value, start, end in _objects(body)
        if value == {_KEY: _NUMBER} and name in body[:start]
    ]


def _argument_spans(body: str, name: str, after_value: str) -> list[tuple[int, int]]:
    """Return the spans from the name to behind the last value."""
    spans = []
    for match in re.finditer(str(_NUMBER), body):
        key = body.rfind(_KEY, 0, match.start())
        start = body.rfind(name, 0, key)
        if start >= 0 and body.startswith(after_value, match.end()):
            spans.append((start, match.end() + len(after_value)))
    return spans


def _masked(text: str, name: str) -> str:
    return text.replace(name, NAME)
