"""The suggested method follows the measured facts, and docs/method.md has the same rules."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from app.core.lint.method_choice import RULES, FileFacts, suggest_methods, table

METHOD_PAGE: Final = Path(__file__).parents[3] / "docs" / "method.md"
CLEAN: Final = FileFacts(
    rows=480, demonstrations=480, teacher_rows=0, pairs=0, has_grader=True, passing_share=1.0, several_share=0.0
)
CASES: Final[dict[str, tuple[dict[str, Any], list[tuple[str, str]], str]]] = {
    "clean": ({}, [("supervised", "all"), ("gft", "all")], "All graded demonstrations pass"),
    "some fail": ({"passing_share": 0.72}, [("supervised", "graded"), ("gft", "all")], "28% of the graded demonst"),
    "one of a thousand fails": ({"passing_share": 0.999}, [("supervised", "graded"), ("gft", "all")], "Some demonst"),
    "few pass": ({"passing_share": 0.2}, [("gft", "all")], "About 96 demonstrations (20%) pass"),
    "few are left": ({"passing_share": 0.9, "rows": 20, "demonstrations": 20}, [("gft", "all")], "About 18 d"),
    "none passes": ({"passing_share": 0.0}, [("gft", "all")], "check the grader first"),
    "several valid answers": (
        {"several_share": 0.5},
        [("gft", "all"), ("supervised", "all")],
        "50% of the graded rows",
    ),
    "some fail, several valid": (
        {"passing_share": 0.7, "several_share": 0.5},
        [("supervised", "graded"), ("gft", "all")],
        "30% of the graded demonstrations fail",
    ),
    "mostly prompts": ({"demonstrations": 48}, [("gft", "all"), ("supervised", "all")], "Only 48 of 480 rows"),
    "not graded": ({"passing_share": None}, [("supervised", "all"), ("gft", "all")], "are not graded"),
    "no grader": ({"has_grader": False, "passing_share": None}, [("supervised", "all")], "The rows have demonst"),
    "prompts": ({"demonstrations": 0, "passing_share": None}, [("reinforcement", "all")], "only rollouts"),
    "prompts without grader": (
        {"demonstrations": 0, "passing_share": None, "has_grader": False},
        [("reinforcement", "all")],
        "Write a grader first",
    ),
    "teachers": ({"demonstrations": 0, "teacher_rows": 9, "passing_share": None}, [("gft", "all")], "teacher answers"),
    "pairs": (
        {"demonstrations": 0, "pairs": 480, "passing_share": None, "has_grader": False},
        [("dpo", "all")],
        "480 of 480 rows",
    ),
    "empty": ({"rows": 0}, [], ""),
}


@pytest.mark.parametrize("name", CASES)
def test_ranking(name: str) -> None:
    changes, ranked, reason = CASES[name]
    found = suggest_methods(replace(CLEAN, **changes))
    assert [(str(one.method), one.demonstrations) for one in found] == ranked
    assert reason in (found[0].reason if found else "")


def test_every_rule_is_first_somewhere_or_last() -> None:
    """A rule that another one always precedes with the same choice would be dead."""
    firsts = {
        next(rule.file for rule in RULES if rule.applies(facts))
        for changes, ranked, _ in CASES.values()
        if (facts := replace(CLEAN, **changes)).rows
        if ranked
    }
    assert firsts == {rule.file for rule in RULES[:-1]}


def test_documented_table_is_generated() -> None:
    page = METHOD_PAGE.read_text()
    assert table() in page, f"Copy this table into {METHOD_PAGE.name}:\n{table()}"
