"""Renders a model's chat templates as transformers does, in a sandbox. No tokens here."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.core.deadline import check_deadline
from app.core.errors import InvalidRequest

DEFAULT: Final = "default"
_WITH_TOOLS: Final = "tool_use"
_TEMPLATE_ERRORS: Final = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""In addition to its own errors, a template raises any exception of its expressions on unexpected data."""
_THOUGHTS: Final = ("reasoning_content", "thinking", "reasoning", "tool_plan")
"""Names under which templates read the thoughts of a message; rows have the first."""


class TemplateRefused(InvalidRequest):
    """The model's chat template rejects this chat."""

    code = "template_refused"


class ChatTemplates:
    """The templates of one model, by name; most models have only `default`."""

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> None:
        """`special_tokens` are variables such as `bos_token`; `variables` are the `chat_template_kwargs` of a job.

        `now` is the date that templates write; the current one if None.
        """
        self._sources = sources
        self._special = special_tokens
        self._variables = dict(variables or {})
        self._now = now

    def using(self, variables: Mapping[str, Any], now: datetime | None) -> "ChatTemplates":
        """Return the same templates with other variables and another clock."""
        return ChatTemplates(self._sources, self._special, variables, now)

    @property
    def unread_variables(self) -> tuple[str, ...]:
        """The variables of the job that no template reads: misspelt, or of another model."""
        return tuple(sorted(self._variables.keys() - frozenset().union(*map(_variables_read, self._sources.values()))))

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, *, for_answer: bool) -> str:
        """Render the chat; `for_answer` opens the assistant's turn. Raises `TemplateRefused` with the reason."""
        check_deadline()  # a row with a thousand turns is rendered a thousand times
        source = self.source(bool(tools))
        try:
            template = _compile(source)
            return template.render(
                messages=[_as_read(message, source) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=for_answer,
                strftime_now=self._strftime_now,
                **{**self._variables, **self._special},
            )
        except _TEMPLATE_ERRORS as error:
            reason = str(error).strip() or type(error).__name__
            raise TemplateRefused(f"the model's chat template rejects the messages: {reason[:300]}") from error

    def source(self, with_tools: bool) -> str:
        """Return the text of the template that renders chats with or without tools."""
        return (self._sources.get(_WITH_TOOLS) if with_tools else None) or self._sources[DEFAULT]

    def _strftime_now(self, form: str) -> str:
        return (self._now or datetime.now().astimezone()).strftime(form)


def _as_read(message: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the message as the template reads it: without nulls, with thoughts and tool calls in the expected form."""
    if len(message) == 2 and message["content"] is not None and not _takes_parts(source):
        return message
    # Remove keys with null values: many templates would write "None" for them.
    read = {name: value for name, value in message.items() if value is not None}
    if (thoughts := read.pop(_THOUGHTS[0], None)) is not None:
        read |= dict.fromkeys(_thought_names(source), thoughts)
    if isinstance(read.get("content"), str) and _takes_parts(source):
        read["content"] = [{"type": "text", "text": read["content"]}]
    if (calls := read.get("tool_calls")) is not None:
        style = _call_style(source)
        read.setdefault("content", style.no_content)
        if style.arguments_as_text:
            read["tool_calls"] = [_with_text(call) for call in calls]
    return read


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _to_json(function["arguments"])}}


@lru_cache(maxsize=32)
def _thought_names(source: str) -> tuple[str, ...]:
    return tuple(name for name in _THOUGHTS if re.search(rf"\.{name}\b|['\"]{name}['\"]", source))


@lru_cache(maxsize=32)
def _takes_parts(source: str) -> bool:
    """Return whether the template reads content as a list of parts only, as some of vision-language models do."""

    def writes(content: object) -> bool:
        try:
            messages = [{"role": "user", "content": content}]
            return "probe" in _compile(source).render(messages=messages, tools=None, add_generation_prompt=True)
        except _TEMPLATE_ERRORS:
            return False

    return not writes("probe") and writes([{"type": "text", "text": "probe"}])


class _CallStyle(NamedTuple):
    """How a template reads a message that calls tools."""

    no_content: str | None
    """What stands for a missing content."""
    arguments_as_text: bool
    """Whether arguments are JSON text: the template would fail on an object, or write it as Python does."""


@lru_cache(maxsize=32)
def _call_style(source: str) -> _CallStyle:
    def written(content: str | None, arguments: object) -> str | None:
        call = {"id": "call00000", "type": "function", "function": {"name": "probe", "arguments": arguments}}
        user, answer = {"role": "user", "content": "probe"}, {"role": "assistant", "tool_calls": [call]}
        try:
            messages = [user, {**answer, "content": content}]
            return _compile(source).render(messages=messages, tools=None, add_generation_prompt=False)
        except _TEMPLATE_ERRORS:
            return None

    for no_content in (None, ""):
        for arguments, as_text in (({"k": "v"}, False), ('{"k": "v"}', True)):
            text = written(no_content, arguments)
            if text is not None and not any(wrong in text for wrong in ("None", "null", "{'k': 'v'}")):
                return _CallStyle(no_content, as_text)
    return _CallStyle("", arguments_as_text=False)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for other tools; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes the text for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=256)  # 40 KB each; compiling takes tens of milliseconds
def _compile(source: str) -> Template:
    return _environment().from_string(source)


@lru_cache(maxsize=32)
def _variables_read(source: str) -> frozenset[str]:
    return frozenset(meta.find_undeclared_variables(_environment().parse(source)))


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse}
    return environment
