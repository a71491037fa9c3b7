"""Renders a model's chat templates as transformers does, in a sandbox. No tokens here."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.core.errors import InvalidRequest

DEFAULT: Final = "default"
_WITH_TOOLS: Final = "tool_use"


class TemplateRefused(InvalidRequest):
    """The model's chat template rejects this chat."""

    code = "template_refused"


class ChatTemplates:
    """The templates of one model, by name; most models have only `default`."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are variables such as `bos_token` and `eos_token`."""
        self._sources = sources
        self._special = special_tokens

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, *, for_answer: bool) -> str:
        """Render the chat; `for_answer` opens the assistant's turn. Raises `TemplateRefused` with the reason."""
        source = self._sources.get(_WITH_TOOLS) if tools else None
        # Remove keys with null values: many templates would write "None" for them.
        plain = [{name: value for name, value in message.items() if value is not None} for message in messages]
        try:
            template = _compile(source or self._sources[DEFAULT])
            return template.render(
                messages=plain, tools=tools, documents=None, add_generation_prompt=for_answer, **self._special
            )
        # In addition to its own errors, a template raises any exception of its expressions on unexpected data.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            reason = str(error).strip() or type(error).__name__
            raise TemplateRefused(f"the model's chat template rejects the row: {reason[:300]}") from error


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


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment.from_string(source)
