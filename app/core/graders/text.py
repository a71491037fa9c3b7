"""The graders that compare text: `string_check`, `text_similarity`, `regex` and `json_schema`."""

from typing import Any

from app.core.graders.templates import render
from app.core.graders.types import Sample, Tools
from app.core.spec.graders import JsonSchemaGrader, RegexGrader, StringCheckGrader, TextSimilarityGrader


def string_check(grader: StringCheckGrader, sample: Sample, item: dict[str, Any], _tools: Tools) -> float:
    """Return 1.0 or 0.0. `like` and `ilike` test containment, as at OpenAI; they are not SQL patterns."""
    text = render(grader.input, sample, item)
    reference = render(grader.reference, sample, item)
    match grader.operation:
        case "eq":
            return float(text == reference)
        case "ne":
            return float(text != reference)
        case "like":
            return float(reference in text)
        case "ilike":
            return float(reference.casefold() in text.casefold())


def text_similarity(grader: TextSimilarityGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return the similarity by the chosen metric, from 0 to 1."""
    text = render(grader.input, sample, item)
    reference = render(grader.reference, sample, item)
    return float(tools.isolated("similarity", grader.evaluation_metric, text, reference))


def regex(grader: RegexGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return 1.0 or 0.0."""
    text = render(grader.input, sample, item)
    return float(tools.isolated("regex", grader.pattern, text, grader.match, grader.ignore_case))


def json_schema(grader: JsonSchemaGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return 1.0 or 0.0; text that is not JSON matches no schema."""
    return float(tools.isolated("json_schema", grader.json_schema, render(grader.input, sample, item)))
