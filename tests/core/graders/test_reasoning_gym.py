"""The reasoning_gym grader: correct answers earn 1, and text is never run as code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.graders.isolated import IsolatedPool
from app.core.graders.reasoning_gym import final_answer
from app.core.graders.run import GraderPool, Sample
from app.core.graders.types import ErrorType, GraderFailure
from app.core.spec.graders import ReasoningGymGrader, missing_fields
from app.core.spec.rows import parse_row
from app.sources import reasoning_gym_rows as gym


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(ReasoningGymGrader(), workers=1, limit_seconds=60) as pool:
        yield pool


@pytest.fixture(scope="module")
def verifiers() -> Iterator[IsolatedPool]:
    with IsolatedPool("reasoning_gym", workers=1, limit_seconds=60) as pool:
        yield pool


def generated(name: str, count: int = 3, seed: int = 7, **config: Any) -> list[Any]:
    return [json.loads(json.dumps(row)) for row in gym.rows(name, count, seed, config)]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["app.sources.reasoning_gym_rows", "app.core.graders.checks.reasoning_gym"])
def test_first_import_prints_no_warning(module: str, tmp_path: Path) -> None:
    """A new installation compiles the packages that reasoning-gym needs; Python warns about one of them."""
    source = f"import sys, {module} as gym; list(getattr(gym, 'data_sets', list)()); assert 'cellpylib' in sys.modules"
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True)
    assert ended.stderr == ""


@pytest.mark.slow
def test_generated_rows_earn_full_reward(pool: GraderPool) -> None:
    rows = [parse_row(json.dumps(row), 1) for row in generated("chain_sum", 5, max_digits=2)]
    assert not missing_fields(ReasoningGymGrader(), set(rows[0].item))
    answers = [
        [row.expert, f"I think so. <answer> {row.expert} </answer>", f"{row.expert}1", "<answer>"] for row in rows
    ]
    pairs = [
        (Sample(output_text=str(text)), row.item) for row, texts in zip(rows, answers, strict=True) for text in texts
    ]
    grades = pool.grade_many(pairs)
    assert all(grade.error is None for grade in grades)
    for right, tagged, wrong, none in zip(*(grades[place::4] for place in range(4)), strict=True):
        assert (right.reward, right.passed, tagged.reward, none.reward) == (1.0, True, 1.0, 0.0)
        assert 0 < (wrong.reward or 0) < 1, "a correct number inside another number earns a partial reward"


def test_row_without_verifier_data_is_an_error(pool: GraderPool) -> None:
    items: list[Any] = [{}, {"reasoning_gym": "text"}, {"reasoning_gym": {"dataset": "chain_sum", "answer": "1"}}]
    items.append({"reasoning_gym": {"dataset": "nothing", "answer": "1", "metadata": {}}})
    grades = pool.grade_many([(Sample(output_text="1"), item) for item in items])
    assert [grade.reward for grade in grades] == [None] * 4
    assert [grade.error_type for grade in grades[:3]] == [ErrorType.invalid_variable] * 3
    assert "must be an object with answer, dataset, metadata" in str(grades[1].error)
    assert "'nothing' not registered" in str(grades[3].error)


@pytest.mark.slow
def test_every_data_set_grades_its_own_answers(verifiers: IsolatedPool) -> None:
    hostile = ("[__import__('os').getpid()]", "{'a': 1+1}", "hello world", "", "(" * 50)
    names = [data_set.name for data_set in gym.data_sets()]
    assert len(names) > 80
    for name in names:
        [row] = generated(name, 1)
        parse_row(json.dumps(row), 1)
        entry = row["reasoning_gym"]
        if isinstance(entry["answer"], str):
            assert verifiers.call(entry, entry["answer"]) == 1, name
        assert all(verifiers.call(entry, text) < 0.9 for text in hostile), name


@pytest.mark.parametrize("name", ["countdown", "string_insertion", "polynomial_multiplication", "number_sorting"])
def test_verifier_cannot_run_text_as_code(verifiers: IsolatedPool, tmp_path: Path, name: str) -> None:
    from reasoning_gym import create_dataset  # noqa: PLC0415 - seconds, for this test alone

    proof = tmp_path / "proof"
    code = f"[__import__('pathlib').Path('{proof}').touch()]"
    entry = json.loads(json.dumps(create_dataset(name, seed=7, size=1)[0]))
    in_row = name == "number_sorting"
    entry |= {"dataset": name} | ({"answer": code} if in_row else {})
    with pytest.raises(GraderFailure, match="tried to run the answer as code, which is not allowed"):
        verifiers.call(entry, '["1"]' if in_row else code)
    assert not proof.exists()


def test_seeds_give_distinct_repeatable_rows() -> None:
    first, again, second = (generated("chain_sum", 50, seed) for seed in (7, 7, 8))
    assert first == again
    questions = [{row["messages"][0]["content"] for row in rows} for rows in (first, second)]
    assert len(questions[0]) == len(questions[1]) == 50
    assert not questions[0] & questions[1]


@pytest.mark.parametrize(
    ("name", "count", "config", "message"),
    [
        ("chain_sums", 1, {}, "Did you mean chain_sum"),
        ("countdown", 1, {}, "runs answers as code"),
        ("chain_sum", 1, {"digits": 3}, "no field 'digits'. Its fields: min_terms=2"),
        ("chain_sum", 1, {"max_terms": 1}, "max_terms must be >= min_terms"),
        ("chain_sum", 1, {"max_terms": "many"}, "cannot be generated with these settings"),
        ("chain_sum", 500, {"max_terms": 2, "max_digits": 1}, "distinct questions, but the request is for 500"),
    ],
)
def test_impossible_data_set_is_refused(name: str, count: int, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        generated(name, count, **config)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("4", "4"),
        ("a <answer>1</answer> b <answer> 2\n</answer> c", "2"),
        ("<answer>1", "<answer>1"),
        ("</answer><answer>", "</answer><answer>"),
    ],
)
def test_answer_is_read_from_the_last_tags(text: str, answer: str) -> None:
    assert final_answer(text) == answer
