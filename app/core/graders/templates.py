"""Renders grader templates with `{{ item.x }}` and `{{ sample.output_text }}`."""

import json
from functools import lru_cache
from typing import Any

from app.core.graders.types import ErrorType, GraderFailure, Sample
from app.core.spec.templates import Variable, parse_template, variables

__all__ = ["render", "variables"]

_parse = lru_cache(maxsize=256)(parse_template)


def render(template: str, sample: Sample, item: dict[str, Any]) -> str:
    """Return `template` with its variables replaced: text as it is, anything else as JSON.

    Raises GraderFailure when a variable is missing or null: an empty reference would silently grade every answer as
    wrong (or right).
    """
    parts = _parse(template)
    return "".join(part if isinstance(part, str) else _resolve(part, sample, item) for part in parts)


def render_alternatives(template: str, sample: Sample, item: dict[str, Any]) -> list[str]:
    """Return the texts of each element if the template is one variable that holds a list, else the rendered text.

    Raises GraderFailure as `render` does.
    """
    match _parse(template):
        case (Variable() as variable,) if isinstance(value := _lookup(variable, sample, item), list) and value:
            return [_text(element) for element in value]
    return [render(template, sample, item)]


def _resolve(variable: Variable, sample: Sample, item: dict[str, Any]) -> str:
    return _text(_lookup(variable, sample, item))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lookup(variable: Variable, sample: Sample, item: dict[str, Any]) -> Any:
    value: Any = item
    steps = variable.path
    if variable.namespace == "sample":
        value, steps = _sample_field(str(steps[0]), sample), steps[1:]
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            message = f"{variable} does not exist in this row"
            raise GraderFailure(message, ErrorType.invalid_variable) from None
    if value is None:
        raise GraderFailure(f"{variable} is null in this row", ErrorType.invalid_variable)
    return value


def _sample_field(name: str, sample: Sample) -> Any:
    if name != "output_json":
        return sample.all_choices if name == "choices" else getattr(sample, name)
    try:
        return json.loads(sample.output_text)
    except (ValueError, RecursionError):
        message = "sample.output_json requires a JSON response, and this one is not JSON"
        if sample.is_cut_off:
            raise GraderFailure(f"{message}: it was cut off", ErrorType.truncated) from None
        raise GraderFailure(message, ErrorType.sample_parse) from None
