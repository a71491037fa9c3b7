"""Grammars that make an answer have a form: JSON by a schema, tool calls of declared functions.

The grammar covers all that the model writes behind its prompt: the thoughts before the form, and the marks around it.
It is in llguidance's dialect of Lark, which vLLM and the embedded engine read.
"""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from app.core.chat.call_format import JsonObject, NameThenJson
from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest

_ANY: Final = r"/(?s:.*)/"
_SPACE: Final = r"/[ \n]{0,4}/"
_OPTIONS: Final = "x-guidance"
"""Keyword at the top of a schema that sets options of llguidance, such as whitespace; elsewhere it has no effect."""
_WHITESPACE: Final = {"whitespace_pattern": r" |\n[ \t]{0,32}"}
"""Whitespace between the tokens of JSON: enough for indented text, and too little to fill an answer."""
_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}
_FUNCTION: Final = "function"
_UNCOMPILED: Final = re.compile(r"at (\d+)\(\d+\): failed to compile JSON schema: (.*?)(?=\n +\d+ \| |\Z)", re.DOTALL)
"""llguidance's error: the line of the grammar, the reason, and then an excerpt of the grammar."""
_ADVICE: Final = ("Enable 'coerce_one_of' option to approximate oneOf with anyOf", "Use anyOf")
"""llguidance's advice to its caller, and ours."""


class CallMode(StrEnum):
    """What an answer may contain."""

    none = "none"
    """Text only."""
    auto = "auto"
    """Text, calls, or both."""
    required = "required"
    """Calls only."""


@dataclass(frozen=True)
class CallRules:
    """The calls that an answer may make."""

    mode: CallMode = CallMode.auto
    allowed: tuple[dict[str, Any], ...] = ()
    """The tools that may be called, in OpenAI's shape."""
    is_parallel: bool = True
    """Whether one answer may contain several calls."""
    param: str = "tool_choice"
    """What a client has to change if the model's format does not allow this."""
    tools_param: str = "tools"
    """The client's field with the tools."""

    @property
    def is_strict(self) -> bool:
        """Whether a tool promises that arguments match its schema."""
        return any(tool["function"].get("strict") for tool in self.allowed)


def structured_outputs(
    tokenizer: ChatTokenizer, schema: dict[str, Any] | None, calls: CallRules
) -> dict[str, Any] | None:
    """Return what an engine needs to enforce the form of an answer, or None if any text will do.

    `schema` is the JSON schema of the text. Raises `InvalidRequest` if the model writes calls in a format that no
    grammar here describes, or if a schema sets options of the grammar.
    """
    has_calls = calls.mode == CallMode.required or (calls.mode == CallMode.auto and bool(calls.allowed))
    enforces_calls = has_calls and (calls.mode == CallMode.required or calls.is_strict or schema is not None)
    _check_options(schema, "The JSON schema of the answer", "response_format")
    for tool in calls.allowed if enforces_calls else ():
        function = tool["function"]
        _check_options(
            function.get("parameters"), f"The schema of the function '{function['name']}'", calls.tools_param
        )
    form = tokenizer.answer_format
    if not enforces_calls:
        if schema is None:
            return None
        if form.thoughts is None and not form.content_start.strip():
            return {"grammar": _Grammar(tokenizer).text(schema)}
    return {"grammar": _Grammar(tokenizer).answer(schema, calls if enforces_calls else None)}


def _check_options(schema: dict[str, Any] | None, what: str, param: str) -> None:
    if schema is not None and _OPTIONS in schema:
        message = f"{what} has the keyword '{_OPTIONS}', whose options only the server may set. Remove the keyword."
        raise InvalidRequest(message, param=param, code="invalid_structured_output")


def uncompiled_schema(grammar: str, error: str, calls: CallRules) -> tuple[str, str] | None:
    """Return (message, param) for an engine's error about a JSON schema of the grammar; None for other errors."""
    found = _UNCOMPILED.search(error)
    lines = grammar.splitlines()
    if found is None or int(found[1]) > len(lines):
        return None
    reason = found[2].strip().rstrip(".").replace(*_ADVICE)
    rule = re.match(rf"{_FUNCTION}(\d+)_", lines[int(found[1]) - 1])
    if rule is None:
        return f"The JSON schema of the answer cannot be compiled: {reason}. Change the schema.", "response_format"
    name = calls.allowed[int(rule[1])]["function"]["name"]
    message = f"The parameters of the function '{name}' cannot be compiled: {reason}. Change their schema."
    return message, calls.tools_param


@dataclass
class _Grammar:
    """Writes the grammar of one request."""

    tokenizer: ChatTokenizer
    _rules: list[str] = field(default_factory=list)

    def text(self, schema: dict[str, Any]) -> str:
        """Return the grammar of JSON by a schema and nothing else."""
        return "\n".join([f"start: {self._json(schema)}", *self._rules]) + "\n"

    def answer(self, schema: dict[str, Any] | None, calls: CallRules | None) -> str:
        """Return the grammar of a whole answer: text by the schema, if there is one, or calls."""
        forms = []
        if schema is not None and (calls is None or calls.mode != CallMode.required):
            forms.append(f"{self._content_start()} {self._json(schema)}")
        if calls is not None:
            forms.append(self._calls(calls))
            if schema is None and calls.mode == CallMode.auto:
                forms = [self._text_or_calls(calls)]
        start = f"start: {self._thoughts()} {_SPACE} ({' | '.join(forms)})"
        return "\n".join([start, *self._rules]) + "\n"

    def _thoughts(self) -> str:
        """Return the grammar of what the model may write before its answer."""
        form = self.tokenizer.answer_format
        if form.thoughts is None:
            return ""
        start, end = form.thoughts
        if end in form.opened:
            return ""
        return self._until(end) if form.opened else f"({_SPACE} {self._literal(start)} {self._until(end)})?"

    def _content_start(self) -> str:
        mark = self.tokenizer.answer_format.content_start.strip()
        return self._literal(mark) if mark else ""

    def _until(self, mark: str) -> str:
        """Return the grammar of any text up to a mark and the mark itself."""
        first, *rest = self.tokenizer.split_added(mark)
        if isinstance(first, int):  # llguidance keeps such tokens apart from text
            return " ".join([_ANY, *map(self._part, [first, *rest])])
        name = self._rule("until", f"{_ANY[:-1]}{_regex(first)}/", "[lazy]")
        return " ".join([name, *map(self._part, rest)])

    def _text_or_calls(self, calls: CallRules) -> str:
        """Return the grammar of any text, in which calls follow the schemas of their functions."""
        form = self.tokenizer.answer_format
        mark = "" if form.calls is None else (form.calls.opening + form.calls.head).strip()
        if not mark:
            return f"{self._calls(calls)} | /[^{{ \\n](?s:.*)/"
        first, *_ = self.tokenizer.split_added(mark)
        if isinstance(first, int):
            return f"<[^{first}]>* ({self._calls(calls)})?"
        text = (
            f"({self._content_start()})? {self._rule('TEXT', _ANY)}" if form.content_start else self._rule("TEXT", _ANY)
        )
        return f"({self._until(mark)} {self._calls(calls, skipped=mark)})? {text}"

    def _calls(self, calls: CallRules, skipped: str = "") -> str:
        """Return the grammar of calls, without `skipped` at its start."""
        form = self.tokenizer.answer_format.calls
        if form is None or not isinstance(form.syntax, JsonObject | NameThenJson):
            raise InvalidRequest(
                "The model writes tool calls in a format whose arguments are no JSON, so this server cannot enforce a "
                "call or its schema. Use tool_choice 'auto' without `strict` and `response_format`.",
                param=calls.param,
                code="unsupported_value",
            )
        body = self._rule("call", " | ".join(self._call(form.syntax, *each) for each in enumerate(calls.allowed)))
        start = (form.opening + form.head).lstrip()
        start = start[start.index(skipped) + len(skipped) :] if skipped else start
        tail, ends_turn = self._before_end(form.tail)
        before = f"({self._literal(form.text_start)})?" if form.text_start and not skipped else ""
        first = " ".join(filter(None, [before, self._literal(start), body, self._literal(tail)]))
        more, is_last = self._before_end(form.separator + form.head)
        can_repeat = calls.is_parallel and form.is_marked and not (ends_turn or is_last)
        again = f"({self._literal(more)} {body} {self._literal(tail)})*" if can_repeat else ""
        closing, _ = ("", True) if ends_turn else self._before_end(form.closing.rstrip())
        end = f"({self._literal(closing)})?" if closing.strip() else ""  # the end token may stand for it
        return " ".join(filter(None, [first, again, end]))

    def _call(self, syntax: JsonObject | NameThenJson, index: int, tool: dict[str, Any]) -> str:
        function, rule = tool["function"], f"{_FUNCTION}{index}_"
        parameters = function.get("parameters") or _NO_PARAMETERS
        if isinstance(syntax, NameThenJson):
            return f"{self._literal(function['name'] + syntax.between)} {self._json(parameters, rule)}"
        arguments = _moved(parameters, f"#/properties/{syntax.arguments_key}")
        schema = {
            "type": "object",
            "properties": {
                syntax.name_key: {"const": function["name"]},
                syntax.arguments_key: arguments,
                **({syntax.id_key: {"type": "string"}} if syntax.id_key else {}),
            },
            "required": [syntax.name_key, syntax.arguments_key],
            "additionalProperties": False,
        }
        return self._json(schema, rule)

    def _before_end(self, text: str) -> tuple[str, bool]:
        """Return the text up to the first token that ends an answer, and whether it has one."""
        parts = self.tokenizer.split_added(text)
        end = next((at for at, part in enumerate(parts) if part in self.tokenizer.end_ids), None)
        if end is None:
            return text, False
        token = self.tokenizer.backend.id_to_token(int(parts[end])) or ""
        return text[: text.index(token)], True

    def _literal(self, text: str) -> str:
        return " ".join(map(self._part, self.tokenizer.split_added(text)))

    def _part(self, part: int | str) -> str:
        return f"<[{part}]>" if isinstance(part, int) else json.dumps(part, ensure_ascii=False)

    def _json(self, schema: dict[str, Any], rule: str = "json") -> str:
        return self._rule(rule, f"%json {json.dumps({**schema, _OPTIONS: _WHITESPACE})}")

    def _rule(self, name: str, body: str, options: str = "") -> str:
        name = f"{name}{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name


def _regex(text: str) -> str:
    """Return the text as a part of a regular expression between slashes."""
    special = set(r"\.+*?()|[]{}^$/&~-#")
    return "".join(f"\\{character}" if character in special else character for character in text).replace("\n", "\\n")


def _moved(schema: Any, root: str) -> Any:
    """Return a schema for use inside another one, where its root is at `root`."""
    if isinstance(schema, dict):
        moved = {key: _moved(value, root) for key, value in schema.items()}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            moved["$ref"] = root + reference[1:]
        return moved
    return [_moved(item, root) for item in schema] if isinstance(schema, list) else schema
