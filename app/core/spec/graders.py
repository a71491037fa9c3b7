"""The graders that a job may ask for and the syntax of their templates; `app.core.graders` does the scoring.

A new type is one class here (or in its own file), one entry in `Grader`, one in `app.core.graders.registry`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_EXPRESSION: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_STEP: Final = re.compile(r"""\.([^\W\d][\w-]*)|\[([0-9]{1,6})\]|\[(['"])([^'"\]]+)\3\]""")
_PATH: Final = re.compile(r"""(item|sample)((?:\.[^\W\d][\w-]*|\[[0-9]{1,6}\]|\[(['"])[^'"\]]+\3\])*)""")

SAMPLE_FIELDS: Final = ("output_text", "output_json", "output_tools", "choices")


@dataclass(frozen=True)
class Variable:
    """A reference like `item.answers[0]`: the namespace and the steps below it."""

    namespace: Literal["item", "sample"]
    path: tuple[str | int, ...]

    def __str__(self) -> str:
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return self.namespace + "".join(steps)


def parse_template(template: str) -> tuple[str | Variable, ...]:
    """Literal text and variables in order. Raises ValueError saying what is wrong with which expression."""
    parts: list[str | Variable] = []
    end = 0
    for match in _EXPRESSION.finditer(template):
        parts += [template[end : match.start()], _variable(match[1])]
        end = match.end()
    if "{{" in template[end:]:
        raise ValueError("the template opens '{{' and never closes it; add '}}'")
    return tuple(part for part in (*parts, template[end:]) if part != "")


def variables(template: str) -> tuple[Variable, ...]:
    """The variables that `template` refers to, in order. Raises ValueError as `parse_template` does."""
    return tuple(part for part in parse_template(template) if isinstance(part, Variable))


def _variable(expression: str) -> Variable:
    shown = "{{" + (expression if len(expression) <= 60 else expression[:57] + "...") + "}}"
    match = _PATH.fullmatch(expression.strip())
    if match is None:
        raise ValueError(f"{shown} is not a variable; write {{{{item.field}}}} or {{{{sample.output_text}}}}")
    path = tuple(int(step[2]) if step[2] else step[1] or step[4] for step in _STEP.finditer(match[2]))
    if match[1] == "item":
        if not path or not isinstance(path[0], str):
            raise ValueError(f"{shown} names no field of the row; write, say, {{{{item.reference_answer}}}}")
        return Variable("item", path)
    if not path or path[0] not in SAMPLE_FIELDS:
        raise ValueError(f"{shown} does not exist; sample has {', '.join(SAMPLE_FIELDS)}")
    return Variable("sample", path)


def _checked_template(template: str) -> str:
    parse_template(template)
    return template


Template = Annotated[str, Field(max_length=100_000), AfterValidator(_checked_template)]
"""Text with `{{ item.x }}` and `{{ sample.output_text }}` in it."""
Name = Annotated[str, Field(min_length=1, max_length=128)]


class BaseGrader(BaseModel):
    """What all graders have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that are templates."""

    def templates(self) -> dict[str, str]:
        """Each template by its path inside the grader."""
        return {field: getattr(self, field) for field in self.template_fields}


Operation = Annotated[
    Literal["eq", "ne", "like", "ilike"],
    BeforeValidator(lambda value: "ne" if value == "neq" else value),  # OpenAI's guide says neq
]


class StringCheckGrader(BaseGrader):
    """1 when the operation holds between the two texts, else 0."""

    template_fields: ClassVar = ("input", "reference")

    type: Literal["string_check"] = "string_check"
    name: Name = "string_check"
    input: Template
    reference: Template
    operation: Operation
    """`like`: input contains reference; `ilike`: the same, ignoring case."""


class MathGrader(BaseGrader):
    """1 when the input's final answer equals the reference mathematically (math-verify), else 0."""

    template_fields: ClassVar = ("input", "reference")

    type: Literal["math"] = "math"
    name: Name = "math"
    input: Template = "{{sample.output_text}}"
    reference: Template
    """The right answer: a number, LaTeX, or a solution that ends in one."""
    answer: Literal["expression", "last_number"] = "expression"
    """What counts as the input's answer: the expression that math-verify finds, or the last number in it.

    Found expressions are evaluated, so "60 + 92" equals 152: a model can learn to repeat the question. Where answers
    are numbers, `last_number` (as GSM8K is usually scored) does not pay for that.
    """


Grader = Annotated[StringCheckGrader | MathGrader, Field(discriminator="type")]


def missing_fields(grader: BaseGrader, item_fields: Collection[str]) -> list[tuple[str, str]]:
    """(path of the template, field) for each `item` field that `grader` reads and the rows do not all have.

    `item_fields` are the fields that every row has; only the first step of a path can be known from them.
    """
    missing = {
        (param, str(variable.path[0])): None
        for param, template in grader.templates().items()
        for variable in variables(template)
        if variable.namespace == "item" and variable.path[0] not in item_fields
    }
    return list(missing)
