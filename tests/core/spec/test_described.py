"""Docstrings of fields become descriptions in JSON schemas."""

from typing import Any

from app.api.pagination import Item, Page
from app.core.spec.export import ManifestBase
from app.core.spec.graders import MathGrader
from app.core.spec.job import GroupMix, PreferenceHyperparameters


def fields(model: Any) -> dict[str, Any]:
    return {name: field.get("description") for name, field in model.model_json_schema()["properties"].items()}


def test_docstring_describes_its_field() -> None:
    assert fields(ManifestBase)["revision"] == "The commit in that repository, if known."


def test_alias_and_inherited_field_keep_their_docstring() -> None:
    assert fields(GroupMix)["self"] == "Rollouts of the current policy."
    assert fields(PreferenceHyperparameters)["batch_size"] == "Prompts (groups) per optimiser step."


def test_docstring_of_a_field_precedes_that_of_its_type() -> None:
    shown = fields(MathGrader)
    assert shown["name"] == "Name of the grader in metrics and reports."
    assert shown["input"] == "A template: the text that contains the answer."


def test_docstring_is_one_line() -> None:
    assert "\n" not in fields(MathGrader)["answer"]


def test_constant_is_described_by_its_value() -> None:
    assert fields(MathGrader)["type"] == "Always `math`."


def test_page_has_the_text_of_its_class() -> None:
    schema = Page[Item].model_json_schema()
    assert schema["description"].startswith("One page of a list.")
    assert schema["properties"]["data"]["description"] == "The items of this page."
