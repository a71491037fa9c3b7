"""Checks of an eval and of the rows of a run, before either is accepted."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.core.deadline import check_deadline
from app.core.errors import InvalidRequest
from app.core.evals import prompts
from app.core.evals.rows import SourceRow
from app.core.graders.types import GraderFailure, Tools
from app.core.spec.evals import SamplerSpec
from app.core.spec.graders import BaseGrader
from app.core.spec.templates import Variable, variables

_OPEN: Final = frozenset({"patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas"})
"""Keywords with which a schema can describe fields outside of `properties`."""
_AT_ONCE: Final = 200
"""Items in one call of the schema's check, which runs in a process of its own."""


def criteria_variables(criteria: Sequence[BaseGrader]) -> Iterator[tuple[str, Variable]]:
    """Yield (path of the template, variable) for each variable of the criteria."""
    for index, grader in enumerate(criteria):
        for path, template in grader.templates().items():
            for variable in variables(template):
                yield f"testing_criteria.{index}.{path}", variable


def check_criteria(criteria: Sequence[BaseGrader], schema: dict[str, Any]) -> None:
    """Raise `InvalidRequest` for two criteria of one name, and for a field that the schema of the items lacks."""
    names = [str(getattr(grader, "name", "")) for grader in criteria]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"testing_criteria.{index}.name"
            raise InvalidRequest(
                f"'{param}': there is another criterion '{name}'. Give each one a name of its own.", param=param
            )
    known = _known_fields(schema)
    for param, variable in criteria_variables(criteria):
        if variable.namespace == "item" and known is not None and variable.path[0] not in known:
            raise InvalidRequest(
                f"'{param}' reads {variable}, which `data_source_config.item_schema` does not have. Add it to "
                f"`properties`, or use one of: {', '.join(sorted(known)) or 'none'}.",
                param=param,
                code="missing_item_field",
            )


def _known_fields(schema: dict[str, Any]) -> set[str] | None:
    """Return the fields that items can have; None if the schema allows any."""
    properties = schema.get("properties", {} if schema.get("additionalProperties") is False else None)
    if not isinstance(properties, dict) or _OPEN & set(schema) or schema.get("additionalProperties"):
        return None
    return set(properties)


def check_rows(
    rows: Sequence[SourceRow], criteria: Sequence[BaseGrader], sampler: SamplerSpec | None, param: str
) -> None:
    """Raise `InvalidRequest` for the first row that lacks a field which a criterion or the input messages read.

    Without a sampler the row also needs an answer if a criterion reads it. Raises `TimeoutError` past the thread's
    deadline.
    """
    read = list(criteria_variables(criteria))
    needed = [(path, variable) for path, variable in read if variable.namespace == "item"]
    answers = [(path, variable) for path, variable in read if variable.namespace == "sample"]
    sent = [] if sampler is None else list(prompts.template_variables(sampler))
    for row in rows:
        check_deadline()
        for path, variable in (*needed, *sent):
            _check_field(row, path, variable)
        if sampler is not None:
            if row.given is not None:
                raise row.error("the row has a `sample`, but this run samples answers. Use a 'jsonl' data source.")
            prompts.prompt_of(sampler, row)
        elif row.sample() is None and answers:
            path, variable = answers[0]
            raise InvalidRequest(
                f"{row.place}: the row has no `sample`, but '{path}' reads {variable}. Add the answer as "
                '`"sample": {"output_text": "..."}`, or sample one with a \'completions\' data source.',
                param=param,
                code="missing_sample",
            )


def _check_field(row: SourceRow, path: str, variable: Variable) -> None:
    try:
        row.lookup(variable)
    except InvalidRequest as error:
        raise InvalidRequest(f"{error.message} '{path}' reads it.", param=error.param, code=error.code) from None


def check_schema(rows: Sequence[SourceRow], schema: dict[str, Any], tools: Tools) -> None:
    """Raise `InvalidRequest` for the first row whose item does not match the schema."""
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        try:
            found = tools.isolated("item_schema", schema, [row.item for row in part])
        except GraderFailure as failure:
            raise InvalidRequest(
                f"The rows could not be compared with `item_schema`: {failure}. Simplify its patterns.",
                param=part[0].param,
                code="item_schema_failed",
            ) from None
        if found is not None:
            index, path, problem = found
            field = f"`item{path}`"
            raise part[index].error(f"{field} does not match `item_schema`: {problem}.", "item_schema_mismatch")
