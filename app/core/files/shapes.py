"""Rows of other tools: recognises their fields and converts them to `messages` or `prompt` and `completion`.

Preference rows (`chosen` and `rejected`, `preferred_output`) stay as they are.
"""

import ast
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from app.core.files.chat_markup import messages_in

CONVERT: Final = "`grouptune files convert FILE`, or the button Convert on the file's page in the dashboard"
MAP: Final = "`grouptune files convert FILE --map prompt=FIELD --map completion=FIELD`"
ANSWER_FIELDS: Final = (
    *("response", "output", "answer", "target", "reply", "label", "ideal", "assistant", "generation", "chosen"),
)
"""Fields that other tools use for the answer to learn from."""
_PROMPT_FIELDS: Final = ("question", "query", "instruction", "input", "user", "human", "problem", "text")
_CONVERSATIONS: Final = ("conversations", "conversation", "dialogue", "dialog", "turns", "chat")
_TEXT_FIELDS: Final = ("text", "content")
_ROLES: Final = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    **{role: role for role in ("system", "developer", "function", "function_call")},
}

_SHOWN_NAMES: Final = 8

Json = dict[str, Any]


class Shape(NamedTuple):
    """A row of another tool."""

    problem: str
    """What the row has, after "the row has": "Alpaca's `instruction` and `output` in place of ..."."""
    row: Json
    """The same row as it can be trained on."""


class ShapeProblem(NamedTuple):
    """What a refused row has in place of the fields of a row, and the fix."""

    problem: str
    fix: str
    is_convertible: bool


def shape_of(row: Json) -> Shape | None:
    """Return the shape of a row that `parse_row` refuses; None if it has no known one."""
    return next((shape for find in _FINDERS if (shape := find(row)) is not None), None)


def problem_in(line: bytes) -> ShapeProblem | None:
    """Return the problem of a refused line; None if its fields are those of a row, or it is not an object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not row:
        return None
    if (shape := shape_of(row)) is not None:
        return ShapeProblem(shape.problem, f"convert the file: {CONVERT}", True)
    if row.keys() & {"messages", "prompt"} or _is_preference(row):
        return None
    if list(row) == ["text"]:
        fix = "write the part that the model reads as `prompt` and the part that it learns as `completion`"
        return ShapeProblem("only `text`, without a division into prompt and answer", fix, False)
    return ShapeProblem(
        f"{named(row)}, and neither `messages` nor `prompt`", f"map them: {MAP}, or Convert in the dashboard", True
    )


def named(names: Collection[str]) -> str:
    """Return the first names, quoted, for a message."""
    shown = ", ".join(f"`{_printable(name)}`" for name in list(names)[:_SHOWN_NAMES])
    return f"{shown}, ..." if len(names) > _SHOWN_NAMES else shown


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name[:60])


def answer_field(fields: Collection[str]) -> str | None:
    """Return the only field that looks like the answer of rows without a demonstration."""
    names = [name for name in ANSWER_FIELDS if name in fields and not (name == "chosen" and "rejected" in fields)]
    return names[0] if len(names) == 1 else None


def with_columns(row: Json, columns: Mapping[str, str]) -> Json:
    """Return the row with fields renamed: `columns` maps the new names to the old ones.

    `completion` next to `messages` becomes the last message, `system` the first one.
    """
    kept = _without(row, *columns.values())
    renamed = {field: row[column] for field, column in columns.items() if column in row} | kept
    for name in columns.keys() & renamed.keys() & {"prompt", "completion"}:
        renamed[name] = _number_as_text(renamed[name])
    messages = renamed.get("messages")
    if isinstance(messages, list) and "completion" in columns and "completion" in renamed:
        answer = {"role": "assistant", "content": renamed.pop("completion")}
        renamed["messages"] = messages = [*messages, answer]
    if "system" in columns and isinstance(messages, list):
        return _with_system(renamed, messages)
    shape = _system(renamed) if "system" in columns else None
    return renamed if shape is None else shape.row


def _without(row: Json, *names: str) -> Json:
    return {name: value for name, value in row.items() if name not in names}


def _is_preference(row: Json) -> bool:
    return ("chosen" in row and "rejected" in row) or "preferred_output" in row


def _number_as_text(value: object) -> object:
    return json.dumps(value) if isinstance(value, int | float) else value


def _parsed(value: object) -> object:
    """Parse JSON or a Python literal in a text, as data sets with text columns have it."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def _objects(value: object, *fields: str) -> list[Json]:
    """Return the value if it is a list of objects with these fields, possibly written as text; else an empty list."""
    entries = _parsed(value)
    if isinstance(entries, list) and all(isinstance(entry, dict) and set(fields) <= entry.keys() for entry in entries):
        return entries
    return []


def _with_system(row: Json, messages: list[Json]) -> Json:
    """Return the row with these messages and its `system` text before them."""
    system = row.get("system")
    if not isinstance(system, str):
        return row | {"messages": messages}
    first = [{"role": "system", "content": system}] if system.strip() else []
    return {"messages": [*first, *messages]} | _without(row, "system", "messages")


def _chat(row: Json) -> Shape | None:
    """Chat rows with faults in every message: other names of roles, numbers, messages as JSON text."""
    messages = _objects(row.get("messages"))
    if not messages:
        return None
    problems: dict[str, None] = {}
    fixed = [_turn(message, problems) for message in messages]
    if isinstance(row["messages"], str):
        problems = {"`messages` as text in place of a list": None}
    changed = row | {"messages": fixed, **({"tools": _parsed(row["tools"])} if "tools" in row else {})}
    return Shape(next(iter(problems)), _with_system(changed, fixed)) if problems else None


def _turn(message: Json, problems: dict[str, None]) -> Json:
    turn = dict(message)
    for wrong, right in (("from", "role"), ("value", "content")):
        if wrong in turn and right not in turn:
            problems["ShareGPT's `from` and `value` in place of `role` and `content`"] = None
            turn = {right if name == wrong else name: value for name, value in turn.items()}
    role = turn.get("role")
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is not None and known != role:
        problems[f"the role `{_printable(str(role))}` in place of `{known}`"] = None
        turn["role"] = known
    if isinstance(turn.get("content"), int | float):
        problems["a number as `content` in place of text"] = None
        turn["content"] = _number_as_text(turn["content"])
    return _call(turn)


def _call(turn: Json) -> Json:
    """LLaMA-Factory writes a tool call as the message of a role `function_call`, with JSON as its text."""
    if turn.get("role") != "function_call":
        return turn
    call = _parsed(turn.get("content"))
    calls = _objects([call] if isinstance(call, dict) else call, "name", "arguments")
    if not calls:
        return turn
    functions = [{"name": call["name"], "arguments": _as_text(call["arguments"])} for call in calls]
    written = [{"id": f"call_{n}", "type": "function", "function": function} for n, function in enumerate(functions)]
    return {"role": "assistant", "content": None, "tool_calls": written}


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _system(row: Json) -> Shape | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(row.get("system"), str) or not isinstance(prompt, str) or row.get("messages") is not None:
        return None
    answer = [] if completion is None else [{"role": "assistant", "content": completion}]
    messages = [{"role": "user", "content": prompt}, *answer]
    return Shape("`system` in place of a system message", _with_system(_without(row, "prompt", "completion"), messages))


def _sharegpt(row: Json) -> Shape | None:
    for name in _CONVERSATIONS:
        messages = _objects(row.get(name), "from", "value") or _objects(row.get(name), "role", "content")
        if messages:
            turns = [_turn(message, {}) for message in messages]
            kept = _without(row, name)
            if "tools" in kept:
                kept["tools"] = _parsed(kept["tools"])
            if _is_preference(row):
                sides = {
                    side: [_turn(row[side], {})] for side in ("chosen", "rejected") if isinstance(row.get(side), dict)
                }
                return Shape(f"ShareGPT's `{name}` in place of `prompt`", {"prompt": turns} | kept | sides)
            return Shape(f"ShareGPT's `{name}` in place of `messages`", {"messages": turns} | _with_system(kept, turns))
    return None


def _gemini(row: Json) -> Shape | None:
    contents = _objects(row.get("contents"), "parts")
    if not contents:
        return None
    system = row.get("systemInstruction") or row.get("system_instruction")
    turns = [{"role": "system", **system}] if isinstance(system, dict) else []
    messages = []
    for turn in [*turns, *contents]:
        texts = [part["text"] for part in _objects(turn["parts"], "text") if isinstance(part["text"], str)]
        if len(texts) != len(turn["parts"]):
            return None
        role = str(turn.get("role", "user"))
        messages.append({"role": _ROLES.get(role, role), "content": "".join(texts)})
    kept = _without(row, "contents", "systemInstruction", "system_instruction")
    return Shape("Gemini's `contents` in place of `messages`", {"messages": messages} | kept)


def _alpaca(row: Json) -> Shape | None:
    instruction, given = row.get("instruction"), row.get("input")
    answers = [name for name in ("output", "response", "completion") if isinstance(row.get(name), str | int | float)]
    if not isinstance(instruction, str) or not (given is None or isinstance(given, str)):
        return None
    if not (len(answers) == 1 or _is_preference(row)):
        return None
    prompt = f"{instruction}\n\n{given}" if given and given.strip() else instruction
    kept = _without(row, "instruction", "input", "history", *answers)
    answer = {"completion": _number_as_text(row[answers[0]])} if answers else {}
    problem = f"Alpaca's `instruction` and `{(answers or ['chosen'])[0]}` in place of `prompt` and `completion`"
    history = row.get("history") or []
    if not (isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)):
        return None
    short = {"prompt": prompt, **answer} | kept
    if not answers or not (history or "system" in row):
        return Shape(problem, short)
    turns = [
        {"role": role, "content": text}
        for pair in [*history, [prompt, answer["completion"]]]
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return Shape(problem, _without(_with_system(short, turns), "prompt", "completion"))


def _columns(row: Json) -> Shape | None:
    """Rows whose prompt or answer has another name."""
    if _is_preference(row) or row.get("messages") is not None:
        return None
    prompts = ["prompt"] if "prompt" in row else [name for name in _PROMPT_FIELDS if _is_prompt(row.get(name))]
    answers = [name for name in ANSWER_FIELDS if isinstance(row.get(name), str | int | float) and name not in prompts]
    if row.get("completion") is not None:
        answers = ["completion"]
    if len(prompts) > 1 and "text" in prompts:
        prompts.remove("text")
    if len(prompts) != 1 or len(answers) != 1 or (prompts, answers) == (["prompt"], ["completion"]):
        return _numbers(row)
    prompt, answer = row[prompts[0]], _number_as_text(row[answers[0]])
    kept = _without(row, prompts[0], answers[0], "completion")
    problem = f"`{prompts[0]}` and `{answers[0]}` in place of `prompt` and `completion`"
    if prompts == ["prompt"]:
        problem = f"`{answers[0]}` in place of `completion`"
    if answers == ["completion"]:
        problem = f"`{prompts[0]}` in place of `prompt`"
    if isinstance(prompt, list):
        return Shape(problem, {"messages": [*prompt, {"role": "assistant", "content": answer}]} | kept)
    short = {"prompt": _number_as_text(prompt), "completion": answer} | kept
    system = _system(short)
    return Shape(problem, short if system is None else system.row)


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) or bool(isinstance(value, list) and _objects(value, "role", "content"))


def _numbers(row: Json) -> Shape | None:
    for name in ("prompt", "completion"):
        if isinstance(row.get(name), int | float):
            fixed = {
                key: _number_as_text(value) if key in ("prompt", "completion") else value for key, value in row.items()
            }
            return Shape(f"a number as `{name}` in place of text", fixed)
    return None


def _markup(row: Json) -> Shape | None:
    for name in _TEXT_FIELDS:
        value = row.get(name)
        if isinstance(value, str) and "prompt" not in row and (found := messages_in(value)) is not None:
            markup, messages = found
            return Shape(
                f"whole conversations as `{name}`, in {markup}, in place of `messages`",
                {"messages": messages} | _without(row, name),
            )
    return None


_FINDERS: Final[tuple[Callable[[Json], Shape | None], ...]] = (
    *(_chat, _sharegpt, _gemini, _alpaca, _markup, _columns, _system),
)
"""In this order: a row may have the fields of several shapes."""
