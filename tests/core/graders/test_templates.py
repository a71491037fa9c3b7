import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.graders.templates import render, variables
from app.core.graders.types import ErrorType, GraderFailure, Sample
from app.core.spec.templates import parse_template

ITEM = {"answer": "4", "a": {"b": [10, {"c": True}]}, "none": None, "odd name": "x", "f": 0.5, "é-1": "y"}
SAMPLE = Sample(output_text='{"n": 3}', output_tools=({"function": {"name": "add"}},))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{item.answer}}", "4"),
        ("{{ item.answer }} and {{\titem.answer\n}}", "4 and 4"),
        ("{{item.a.b[0]}}", "10"),
        ("{{item.a.b[1].c}}", "true"),
        ("{{item.a.b[-1].c}}", "true"),
        ("{{item.a}}", '{"b": [10, {"c": true}]}'),
        ("{{item['odd name']}}{{item[\"answer\"]}}", "x4"),
        ("{{item.é-1}}", "y"),
        ("{{item.f}}", "0.5"),
        ("{{sample.output_text}}", '{"n": 3}'),
        ("{{sample.output_json.n}}", "3"),
        ("{{sample.output_tools[0].function.name}}", "add"),
        (r"\frac{1}{2^{3}} {x}", r"\frac{1}{2^{3}} {x}"),
        ("", ""),
    ],
)
def test_render(template: str, expected: str) -> None:
    assert render(template, SAMPLE, ITEM) == expected


def test_values_are_not_rendered_again() -> None:
    assert render("{{sample.output_text}}", Sample(output_text="{{item.answer}}"), ITEM) == "{{item.answer}}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{item.nope}}", "item.nope does not exist in this row"),
        ("{{item.a.b[9]}}", r"item.a.b\[9\] does not exist"),
        ("{{item.a.b[-3]}}", r"item.a.b\[-3\] does not exist"),
        ("{{item.answer.x}}", "item.answer.x does not exist"),
        ("{{item.none}}", "item.none is null in this row"),
        ("{{sample.choices[1]}}", r"sample.choices\[1\] does not exist"),
    ],
)
def test_missing_variable_is_a_failure(template: str, message: str) -> None:
    with pytest.raises(GraderFailure, match=message) as caught:
        render(template, SAMPLE, ITEM)
    assert caught.value.error_type is ErrorType.invalid_variable


def test_output_json_needs_json() -> None:
    with pytest.raises(GraderFailure, match="not JSON") as caught:
        render("{{sample.output_json.n}}", Sample(output_text="no"), ITEM)
    assert caught.value.error_type is ErrorType.sample_parse


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{item}}", "does not name a field of the row"),
        ("{{item[0]}}", "does not name a field of the row"),
        ("{{items.x}}", r"\{\{items.x\}\} is not a variable; write \{\{item.field\}\}"),
        ("{{item.x | upper}}", "is not a variable"),
        ("{{item.__class__()}}", "is not a variable"),
        ("{{}}", "is not a variable"),
        ("a {{item.x", "without a matching"),
        (
            "{{sample.text}}",
            "the fields of sample are output_text, output_json, output_tools, output_reasoning, choices",
        ),
        ("{{" + "x" * 5000 + "}}", "is not a variable"),
    ],
)
def test_template_error_shows_the_syntax(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_template(template)
    assert len(str(caught.value)) < 200


def test_variables_are_listed_in_order() -> None:
    read = variables("{{ item.a.b[0] }} {{sample.output_text}} {{item.c}}")
    assert [str(variable) for variable in read] == ["item.a.b[0]", "sample.output_text", "item.c"]


@given(st.text(alphabet="{}item.sampleoutput_text[]0'\" ", max_size=40))
def test_any_text_parses_or_raises_value_error(template: str) -> None:
    try:
        parts = parse_template(template)
    except ValueError:
        return
    assert template.count("{{") >= sum(not isinstance(part, str) for part in parts)
