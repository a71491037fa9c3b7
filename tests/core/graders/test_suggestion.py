"""Suggested graders, by what the files' right answers are. Each must pay for the demonstrations it was made from."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.core.graders.run import grade
from app.core.graders.suggestion import Suggestion, suggest
from app.core.graders.types import Sample
from app.core.spec.graders import missing_fields
from app.core.spec.rows import Row, parse_row

EXAMPLES = Path(__file__).parents[3] / "examples"
CITIES = ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Quito")
LONG = "The treaty ended the war, moved the border to the river and returned the prisoners of both sides. Part {}."


def rows_of(rows: list[dict[str, Any]]) -> list[Row]:
    return [parse_row(json.dumps(row), line) for line, row in enumerate(rows, 1)]


def suggested(rows: list[Row]) -> Suggestion:
    counts = Counter(name for row in rows for name in row.item)
    return suggest(rows, [name for name, count in counts.items() if count == len(rows)])


def asked(answers: list[Any], demonstrations: list[str] | None = None, field: str = "answer") -> list[dict[str, Any]]:
    rows = [{"prompt": "?", field: answer} for answer in answers]
    return (
        [row | {"completion": text} for row, text in zip(rows, demonstrations or [], strict=True)]
        if demonstrations
        else rows
    )


TURNS = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "4"}]
PERSON = [json.dumps({"name": f"N{number}", "age": number}) for number in range(4)]
SCORES = [r"\frac{1}{2}", "x^2 + 1", "3", r"\sqrt{2}"]
MOODS = ["good", "bad", "good", "bad", "good", "bad"]
CASES: dict[str, tuple[list[dict[str, Any]], str, str | None]] = {
    "numbers": (
        asked([7, 1.5, "1,200", "3/4"], ["It is 7", "1.5", "So 1200", "0.75"], "reference_answer"),
        "math",
        "reference_answer",
    ),
    "gsm8k": (asked(["2 + 2 = 4, so\n#### 4", "6 - 1\n#### 5"], ["4", "5"]), "math", "answer"),
    "sums in the demonstration": (
        [{"prompt": "?", "completion": f"1 + {n} = {n + 1}."} for n in range(4)],
        "math",
        None,
    ),
    "lists of accepted numbers": (asked([["1/2", "50%"], ["3"]], ["0.5", "3"], "answers"), "math", "answers"),
    "formulas": (asked(SCORES, [rf"$\boxed{{{score}}}$" for score in SCORES], "solution"), "math", "solution"),
    "labels": (asked(MOODS, MOODS, "label"), "string_check", "label"),
    "labels without demonstrations": (asked(MOODS, None, "gold_label"), "string_check", "gold_label"),
    "labels in sentences": (
        asked(MOODS, [f"Not good, not bad: {mood}." for mood in MOODS], "label"),
        "python",
        "label",
    ),
    "true or false": (asked([True, False] * 3, ["true", "false"] * 3), "string_check", "answer"),
    "json in a field": (asked(PERSON, PERSON), "multi", "answer"),
    "json objects": (
        asked([{"a": [1, 2], "b": None}, {"a": [], "b": "x"}], ['{"a": [1, 2], "b": null}', '{"b": "x", "a": []}']),
        "multi",
        "answer",
    ),
    "json in demonstrations": (
        [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]} for text in PERSON],
        "multi",
        None,
    ),
    "json in code blocks": ([{"prompt": "?", "completion": f"```json\n{text}\n```"} for text in PERSON], "multi", None),
    "json in conversations": (
        [
            {"messages": [*TURNS * number, {"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}
            for number, text in enumerate(PERSON)
        ],
        "multi",
        None,
    ),
    "names": (asked(list(CITIES), [f"The capital is {city}." for city in CITIES], "target"), "string_check", "target"),
    "exact names": (asked(list(CITIES), list(CITIES), "expected"), "string_check", "expected"),
    "free text": ([{"prompt": "?", "completion": LONG.format(number)} for number in range(4)], "text_similarity", None),
    "free text in a field": (
        asked([LONG.format(number) for number in range(4)], None, "reference"),
        "text_similarity",
        "reference",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_suggestion_fits_the_answers(case: str) -> None:
    written, kind, field = CASES[case]
    rows = rows_of(written)
    found = suggested(rows)
    assert found.grader is not None
    assert (found.grader.type, found.field) == (kind, field), found.reason
    assert found.reason.endswith((".", ")."))
    assert not missing_fields(found.grader, rows[0].item)
    for row in rows:
        if row.expert is not None:
            graded = grade(found.grader, Sample(output_text=row.expert), row.item)
            assert graded.error is None
            assert graded.passed, (row.expert, row.item)


def test_wrong_answers_earn_less() -> None:
    json_rows = rows_of(asked(PERSON))
    json_grader = suggested(json_rows).grader
    label_rows = rows_of(CASES["labels in sentences"][0])
    label_grader = suggested(label_rows).grader
    assert json_grader is not None
    assert label_grader is not None
    partly = grade(json_grader, Sample(output_text='{"name": "N0", "age": 9}'), json_rows[0].item)
    no_json = grade(json_grader, Sample(output_text="N0 is 0"), json_rows[0].item)
    assert partly.reward == pytest.approx(0.6)
    assert no_json.reward == 0
    assert grade(label_grader, Sample(output_text="bad, no: good, no: bad"), label_rows[0].item).reward == 0


def test_example_file_gets_its_own_grader() -> None:
    lines = (EXAMPLES / "arithmetic.train.jsonl").read_bytes().splitlines()[:64]
    found = suggested([parse_row(line, number) for number, line in enumerate(lines, 1)])
    assert found.grader is not None
    assert found.grader.model_dump(exclude_defaults=True) == {
        "name": "answer",
        "reference": "{{item.reference_answer}}",
        "answer": "last_number",
    }
    assert found.reason.startswith("In all 64 rows read, `reference_answer` is a number")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"prompt": "?", "chosen": "a", "rejected": "b"}], "pair of answers"),
        ([{"prompt": "?", "answer_type": "number", "difficulty": 3}], "No row has a field with the right answer"),
        ([{"prompt": "?", "answer": ""}, {"prompt": "?", "answer": "4"}], "No row has a field with the right answer"),
        (
            [
                {"messages": [*TURNS]},
                {"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]},
            ],
            "a demonstration that is a text",
        ),
        ([], "no rows"),
    ],
)
def test_nothing_to_suggest(rows: list[dict[str, Any]], reason: str) -> None:
    found = suggested(rows_of(rows))
    assert found.grader is None
    assert reason in found.reason


def test_verified_rows_use_their_verifier() -> None:
    rows = rows_of([{"prompt": "?", "answer": "4", "reasoning_gym": {"dataset": "x", "answer": "4", "metadata": {}}}])
    found = suggested(rows)
    assert found.grader is not None
    assert found.grader.type == "reasoning_gym"
