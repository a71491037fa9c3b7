"""The syntax of grader templates, `{{ item.x }}` and `{{ sample.output_text }}`. `app.core.graders` renders them."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

_EXPRESSION: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_STEP: Final = re.compile(r"""\.([^\W\d][\w-]*)|\[(-?[0-9]{1,6})\]|\[(['"])([^'"\]]+)\3\]""")
_PATH: Final = re.compile(r"""(item|sample)((?:\.[^\W\d][\w-]*|\[-?[0-9]{1,6}\]|\[(['"])[^'"\]]+\3\])*)""")

SAMPLE_FIELDS: Final = ("output_text", "output_json", "output_tools", "output_reasoning", "choices")


@dataclass(frozen=True)
class Variable:
    """A reference such as `item.answers[0]`: the namespace and the path below it. -1 is the last element of a list."""

    namespace: Literal["item", "sample"]
    path: tuple[str | int, ...]

    def __str__(self) -> str:
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return self.namespace + "".join(steps)


@lru_cache(maxsize=256)  # A job renders the same templates for every answer, so the parse is cached.
def parse_template(template: str) -> tuple[str | Variable, ...]:
    """Return literal text and variables in order. Raises ValueError that names the invalid expression."""
    parts: list[str | Variable] = []
    end = 0
    for match in _EXPRESSION.finditer(template):
        parts += [template[end : match.start()], _variable(match[1])]
        end = match.end()
    if "{{" in template[end:]:
        raise ValueError("the template has '{{' without a matching '}}'; add '}}'")
    return tuple(part for part in (*parts, template[end:]) if part != "")


def variables(template: str) -> tuple[Variable, ...]:
    """Return the variables of `template`, in order. Raises ValueError as `parse_template` does."""
    return tuple(part for part in parse_template(template) if isinstance(part, Variable))


def _variable(expression: str) -> Variable:
    shown = "{{" + (expression if len(expression) <= 60 else expression[:57] + "...") + "}}"
    match = _PATH.fullmatch(expression.strip())
    if match is None:
        raise ValueError(f"{shown} is not a variable; write {{{{item.field}}}} or {{{{sample.output_text}}}}")
    path = tuple(int(step[2]) if step[2] else step[1] or step[4] for step in _STEP.finditer(match[2]))
    if match[1] == "item":
        if not path or not isinstance(path[0], str):
            raise ValueError(
                f"{shown} does not name a field of the row; write, for example, {{{{item.reference_answer}}}}"
            )
        return Variable("item", path)
    if not path or path[0] not in SAMPLE_FIELDS:
        raise ValueError(f"{shown} does not exist; the fields of sample are {', '.join(SAMPLE_FIELDS)}")
    return Variable("sample", path)


def _checked_template(template: str) -> str:
    parse_template(template)
    return template


Template = Annotated[
    str,
    Field(max_length=100_000, description="Text with placeholders such as `{{item.x}}`."),
    AfterValidator(_checked_template),
]
"""Text with placeholders such as `{{ item.x }}` and `{{ sample.output_text }}`."""
