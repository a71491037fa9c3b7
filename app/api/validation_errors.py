"""Turns pydantic's errors into one dotted path and one sentence that says how to fix the request."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from app.core.parse_errors import json_place

HINTS: Final = {
    "grader": "specify how answers are scored, for example "
    '{"type": "string_check", "input": "{{sample.output_text}}", "operation": "eq", '
    '"reference": "{{item.reference_answer}}"}',
    "training_file": "upload a JSONL or Parquet file with purpose 'fine-tune' (POST /v1/files) and send its id",
    "model": "use the name of a base model; GET /v1/models lists them",
    "integrations": 'send a list of up to 5 like {"type": "wandb", "wandb": {"project": "..."}}',
    "prompt": "send a text, a list of texts, token ids, or a list of lists of token ids",
    "suffix": "use 1 to 64 letters, digits, '.', '-' or '_'",
    "alias": "use 1 to 64 lower-case letters, digits, '.', '-' or '_', beginning with a letter or digit",
}
"""How to fix a field that is missing or wrong, by its name."""
_LENGTHS: Final = {
    "too_short": "item",
    "too_long": "item",
    "string_too_short": "character",
    "string_too_long": "character",
}
"""Pydantic's errors of a value that is too short or too long, and what is counted."""
_KINDS: Final = {
    "string_type": "be a string",
    "string_unicode": "be a string of whole characters, without half a surrogate pair",
    "list_type": "be a list",
    "dict_type": "be an object",
    "model_type": "be an object",
    "model_attributes_type": "be an object",
    "bool_type": "be true or false",
    "bool_parsing": "be true or false",
    "int_type": "be an integer",
    "int_parsing": "be an integer",
    "int_from_float": "be an integer",
    "float_type": "be a number",
    "float_parsing": "be a number",
}
"""Pydantic's errors of a value of the wrong type, in the words of JSON."""
_SHOWN: Final = 60
"""Characters of a wrong value that a message shows."""
MAX_ERRORS: Final = 200
"""The errors that are explained. A list of ten thousand wrong items has as many."""


def explain(errors: Sequence[Mapping[str, Any]], body_type: Any, body: Any) -> tuple[str, str | None]:
    """Return (message, param) for the errors of one request: the first wrong field, with the names of others."""
    (message, param), *others = explain_each(errors, body_type, body)
    if others:
        names = ", ".join(f"'{other}'" for _, other in others[:5])
        message += f" Other wrong fields: {names}."
    return message, param


def explain_each(errors: Sequence[Mapping[str, Any]], body_type: Any, body: Any) -> list[tuple[str, str | None]]:
    """Return one (message, param) for each wrong field of a request, whose JSON `body` should have been a `body_type`.

    A field that accepts several forms has an error for each of them. A body type that accepts several forms has a
    method `path_as_sent`, which returns where the client put a field.
    """
    path_as_sent = getattr(body_type, "path_as_sent", lambda param, _body: param)
    by_param: dict[str, list[Mapping[str, Any]]] = {}
    models: dict[str, type[BaseModel] | None] = {}
    for error in errors[:MAX_ERRORS]:
        param, model = _locate(error, body_type)
        param = path_as_sent(param, body)
        by_param.setdefault(param, []).append(error)
        models[param] = model
    return [(_sentence(param, found, models[param], body), param or None) for param, found in by_param.items()]


def _locate(error: Mapping[str, Any], body_type: Any) -> tuple[str, type[BaseModel] | None]:
    """Return the client's path to the error, without pydantic's names of union members, and the enclosing model."""
    context = error.get("ctx") or {}
    if isinstance(context.get("param"), str):
        return context["param"], None
    place, *steps = error["loc"]
    if error["type"] == "json_invalid":  # the step is the position in the text
        return "", None
    if place != "body":
        return ".".join(str(step) for step in steps), None
    path: list[str] = []
    here: Any = body_type
    parent: type[BaseModel] | None = None
    for step in steps:
        members = list(_members(here))
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        tagged = [model for model in models if len(models) > 1 and _has_tag(model, step)]
        if tagged:
            here = tagged[0]
        elif len(models) == 1:
            parent = models[0]
            path.append(str(step))
            here = _annotation(parent, step)
        elif (item := _item_type(members, step)) is not None and step != "[key]":
            path.append(str(step))
            here = item
    return ".".join(path), parent


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _item_type(members: list[Any], step: object) -> Any:
    """Return the type of the items that `step` is an index or a key of; None if no member has such items.

    Pydantic also puts the name of a union's member into the path: a text, where a list has numbers.
    """
    kinds = (list, tuple) if isinstance(step, int) else (dict,)
    holders = (get_args(member) for member in members if get_origin(member) in kinds)
    return next((args[-1] if args[-1] is not ... else args[0] for args in holders), None)


def _has_tag(model: type[BaseModel], tag: object) -> bool:
    field = model.model_fields.get("type")
    return field is not None and get_origin(field.annotation) is Literal and tag in get_args(field.annotation)


def _annotation(model: type[BaseModel], name: object) -> Any:
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            return field.annotation
    return None


def _sentence(param: str, errors: list[Mapping[str, Any]], model: type[BaseModel] | None, body: Any) -> str:
    error = errors[0]
    field = param.rpartition(".")[2]
    hint = f": {HINTS[field]}" if field in HINTS else ""
    match error["type"]:
        case "json_invalid":
            line, column, words = json_place(json.JSONDecodeError(error["ctx"]["error"], body, error["loc"][-1]))
            return f"The body is not valid JSON: line {line}, column {column}: {words}."
        case "missing" if not param:
            return "The request needs a body: a JSON object with the header `content-type: application/json`."
        case "missing" | "union_tag_not_found":
            tag = ".type" if error["type"] == "union_tag_not_found" else ""
            return f"'{param}{tag}' is missing{hint or '; add it'}."
        case "extra_forbidden":
            return f"Unknown field '{param}'{_suggestion(field, model)}"
        case "union_tag_invalid":
            context = error["ctx"]
            return f"'{param}.type' cannot be '{context['tag']}'; use one of {context['expected_tags']}."
        case "job":
            return str(error["msg"])
        case "value_error":
            text = str(error["msg"]).removeprefix("Value error, ")
            return f"'{param}' is not valid: {text}."
        case _ if not param:
            return "The body must be a JSON object; send it with the header `content-type: application/json`."
    if error["type"] == "string_pattern_mismatch" and field in HINTS:
        return f"'{param}' should {HINTS[field]}; you sent {_shown(error.get('input'))}."
    is_secret = model is not None and SecretStr in _members(_annotation(model, field))
    sent = "" if is_secret else f"; you sent {_shown(error.get('input'))}"
    return f"'{param}' should {_expectation(errors)}{sent}{hint}."


def _expectation(errors: list[Mapping[str, Any]]) -> str:
    """Return what one of the field's forms expects. The length counts only for the form that was sent."""
    sized = [error for error in errors if error["type"] in _LENGTHS]
    phrases = list(dict.fromkeys(_phrase(error) for error in sized or errors))
    is_be = all(phrase.startswith("be ") for phrase in phrases)
    return " or ".join([phrases[0], *(phrase.removeprefix("be ") if is_be else phrase for phrase in phrases[1:])])


def _phrase(error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    if (unit := _LENGTHS.get(kind)) is not None:
        word, limit = ("at least", "min_length") if kind.endswith("too_short") else ("at most", "max_length")
        count = context[limit]
        return f"have {word} {count} {unit}{'' if count == 1 else 's'}"
    if kind == "string_pattern_mismatch":
        return f"match {context['pattern']}"
    return _KINDS.get(kind) or f"be {str(error['msg']).removeprefix('Input ').removeprefix('should be ')}"


def _suggestion(field: str, model: type[BaseModel] | None) -> str:
    if model is None:
        return "; remove it."
    names = [info.alias or name for name, info in model.model_fields.items()]
    close = difflib.get_close_matches(field, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known fields: {', '.join(names)}."


def _shown(value: Any) -> str:
    """Return the start of a value. It may be large, so no more than that start is encoded."""
    if isinstance(value, str):
        text = repr(value[: _SHOWN + 1])
    else:
        text = ""
        for piece in json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value):
            text += piece
            if len(text) > _SHOWN:
                break
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
