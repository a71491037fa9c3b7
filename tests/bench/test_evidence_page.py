"""The evidence: its intervals, the words of its conclusions, its plan of runs, and the page in docs/."""

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.evidence import conclusions, page
from bench.evidence.api import EvidenceError
from bench.evidence.cells import cell, cells
from bench.evidence.cost import Tokens, job_tokens
from bench.evidence.intervals import Estimate, difference, mean_of, mean_over_seeds, verdict
from bench.evidence.matrix import FULL, QUICK, SEEDS, STEPS, Size, chosen_rates, equal_cost_steps, next_run, runs
from bench.evidence.methods import METHODS
from bench.evidence.results import RESULTS, Results, about
from bench.evidence.runs import Run
from bench.evidence.scenarios import SCENARIOS, demonstration, old_task, question

DOCS = Path(__file__).parents[2] / "docs"
ROWS = 40


def scored(share: float, seed: int) -> str:
    """Return the verdicts of rows of which this share passes."""
    right = round(share * ROWS)
    digits = ["1"] * right + ["0"] * (ROWS - right)
    random.Random(seed).shuffle(digits)  # noqa: S311 - test data
    return "".join(digits)


def result(run: Run, accuracy: float, *, drift: float = 0.5, flops: float = 1e12, **changed: Any) -> dict[str, Any]:
    """Return the stored form of a run."""
    rows = scored(accuracy, run.seed)
    measured = {"validation": rows, "test": rows, "old": rows, "forward_kl": drift, "entropy": 0.1}
    described = {"key": run.key, **vars(run), "rates": list(run.rates)}
    return described | {"kept_rows": 240, "flops": flops, "seconds": 1.0, **measured, **changed}


def stored(tmp_path: Path, *found: dict[str, Any]) -> Results:
    """Return results that were written to a file and read again."""
    results = Results(tmp_path / "evidence.json")
    for one in found:
        results.add(one, about("tiny", 1_000, 1))
    return Results.read(results.path)


def of_method(name: str, accuracies: Sequence[float], **changed: Any) -> list[dict[str, Any]]:
    """Return the runs of a method on clean data, one a seed."""
    rate = METHODS[name].rates[0]
    made = [Run("clean", name, seed, (rate,), STEPS) for seed in SEEDS[: len(accuracies)]]
    return [result(run, accuracy, **changed) for run, accuracy in zip(made, accuracies, strict=True)]


def test_interval_grows_with_the_spread_of_seeds() -> None:
    rows = [float(digit) for digit in scored(0.5, 1)]
    same = mean_of([rows, rows, rows])
    apart = mean_of([rows, [1.0] * ROWS, [0.0] * ROWS])
    assert same.low is not None
    assert apart.low is not None
    assert apart.mean - apart.low > 2 * (same.mean - same.low)
    assert mean_of([rows]).low is None


def test_interval_covers_the_true_difference() -> None:
    """Three seeds with effects of their own, on the same rows: the interval holds the truth in about 95 % of cases."""
    rng, held, trials = random.Random(5), 0, 300  # noqa: S311 - a simulation
    for _ in range(trials):
        rows = [rng.gauss(0, 0.3) for _ in range(ROWS)]
        effects = [rng.gauss(0, 0.05) for _ in range(3)]
        grid = [[0.1 + effect + row + rng.gauss(0, 0.3) for row in rows] for effect in effects]
        found = mean_of(grid)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.1 <= found.high
    assert 0.93 <= held / trials <= 1.0


@pytest.mark.parametrize(
    ("low", "high", "word", "less_is_better"),
    [
        (0.1, 0.2, "better", "worse"),
        (-0.2, -0.1, "worse", "better"),
        (-0.1, 0.2, "level", "level"),
        (0, 0, "level", "level"),
    ],
)
def test_verdict_follows_the_interval(low: float, high: float, word: str, less_is_better: str) -> None:
    found = Estimate((low + high) / 2, low, high, 3)
    assert verdict(found) == word
    assert verdict(found, more_is_better=False) == less_is_better
    assert verdict(Estimate(0.5, None, None, 1)) is None


def test_differences_are_paired() -> None:
    rows = [float(digit) for digit in scored(0.5, 1)]
    better = [min(1.0, value + (place % 2)) for place, value in enumerate(rows)]
    found = difference([better] * 3, [rows] * 3)
    assert found.mean == pytest.approx(fmean(better) - fmean(rows))
    assert verdict(found) == "better"
    assert verdict(difference([rows] * 3, [rows] * 3)) == "level"
    drift = mean_over_seeds([0.1, 0.2, 0.3])
    assert drift.low is not None
    assert drift.mean - drift.low == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)


def test_conclusions_use_the_computed_words(tmp_path: Path) -> None:
    results = stored(
        tmp_path,
        *of_method("sft", (0.9, 0.9, 0.9), drift=1.0),
        *of_method("gft", (0.5, 0.5, 0.5), drift=0.4, flops=3e12),
        *of_method("grpo", (0.5, 0.5, 0.5), drift=0.9),
        *of_method("rejection", (0.9,)),
    )
    found = cells(results, "clean")
    sentences = conclusions.accuracy_sentences(found)
    gft, sft, grpo = (METHODS[name].label for name in ("gft", "sft", "grpo"))
    assert sentences[0].startswith(f"{gft} is worse than {sft}: -40.0 points (95 % -")
    assert sentences[1].startswith(f"{gft} is level with {grpo}: +0.0 points (95 % ")
    assert len(sentences) == 2, "one seed gives no verdict"
    drift = conclusions.drift_sentences(found)
    assert drift == [
        "GFT moves less far from the base model than GRPO: forward KL -0.50 (95 % -0.50 to -0.50, 3 seeds)."
    ]
    assert conclusions.best(found) == ("The highest mean is that of SFT (90%); every other method is worse.")


def test_rate_is_chosen_on_validation_rows_only(tmp_path: Path) -> None:
    rates = METHODS["sft"].rates
    made = [Run("clean", "sft", SEEDS[0], (rate,), STEPS) for rate in rates[:2]]
    results = stored(
        tmp_path,
        result(made[0], 0.5, test="1" * ROWS),
        result(made[1], 0.8, test="0" * ROWS),
    )
    assert chosen_rates(results, "clean", "sft") == (rates[1],)
    found = cell(results, "clean", "sft")
    assert found is not None
    assert found.accuracy.mean == 0.0


def test_a_stored_run_is_not_planned_again(tmp_path: Path) -> None:
    size = Size(("clean",), ("sft",), rates=2)
    results, planned = stored(tmp_path), []
    while run := next_run(size, results):
        planned.append(run)
        results.add(result(run, 0.5 + 100 * run.rates[0] if run.rates else 0.1), about("tiny", 1_000, 1))
    rates = METHODS["sft"].rates
    assert [(run.seed, run.rates) for run in planned] == [
        (0, ()),
        (1, (rates[0],)),
        (1, (rates[1],)),
        (2, (max(rates[:2]),)),
        (3, (max(rates[:2]),)),
    ]
    assert next_run(size, Results.read(results.path)) is None


def test_full_matrix_contains_the_quick_one(tmp_path: Path) -> None:
    results = stored(tmp_path)
    while run := next_run(QUICK, results):
        results.runs[run.key] = result(run, 0.5)
    keys = {run.key for run in runs(FULL, results)}
    assert set(results.runs) <= keys


def test_equal_cost_takes_more_steps_of_a_cheaper_method(tmp_path: Path) -> None:
    results = stored(tmp_path, *of_method("sft", (0.5,), flops=1e12), *of_method("gft", (0.5,), flops=3e12))
    assert equal_cost_steps(results, "clean", "sft") == 3 * STEPS
    assert equal_cost_steps(results, "clean", "grpo") is None


def test_operations_count_training_sampling_and_scoring() -> None:
    metrics = {"gft/prompt_length": [None, 10.0, 10.0], "frac_reward_zero_std": [None, 0.5, 0.0]}
    metrics |= {"num_tokens": [None, 40.0, 120.0], "gft/self/length": [None, 5.0, 5.0]}
    tokens = job_tokens(metrics, rows=16, batch_size=8, rollouts=4, is_paired=False)
    assert tokens == Tokens(trained=120 + 8 * 5 + 8 * 10, generated=2 * 8 * (10 + 4 * 5))
    assert (tokens + Tokens(scored=3)).flops(10) == 10 * (4 * 240 + 2 * 480 + 2 * 3)
    pairs = job_tokens(
        {"gft/prompt_length": [10.0, 10.0], "num_tokens": [80.0, 160.0]},
        rows=8,
        batch_size=8,
        rollouts=0,
        is_paired=True,
    )
    assert pairs == Tokens(trained=320, scored=160)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_never_trains_held_out_rows(name: str) -> None:
    split = SCENARIOS[name].make(1, 40)
    assert split == SCENARIOS[name].make(1, 40)
    other = SCENARIOS[name].make(2, 40)
    assert (split.test, split.validation) == (other.test, other.validation)
    assert split.train != other.train
    held_out = {str(sorted(str(question(item)).split())) for item in (*split.test, *split.validation)}
    assert not held_out & {str(sorted(str(question(item)).split())) for item in split.train}
    assert not {str(question(item)) for item in old_task()} & {str(question(item)) for item in split.train}


def test_biased_demonstrations_forget_carries() -> None:
    clean, biased = (SCENARIOS[name].make(1, 240).train for name in ("clean", "biased-60"))
    wrong = [item for item, right in zip(biased, clean, strict=True) if item != right]
    assert 0.4 < len(wrong) / 110 < 0.8, "about 60 % of the sums with a carry"
    for item in wrong:
        shown = int(str(demonstration(item)).rstrip(".").split("= ")[1])
        assert shown == int(item["reference_answer"]) - 10


def test_page_is_written_from_the_results() -> None:
    results = Results.read(RESULTS)
    assert results.runs
    for name, content in page.files(results).items():
        assert (DOCS / name).read_text(encoding="utf-8") == content, "run: make evidence ARGS=--page"
        if name.endswith(".svg"):
            ElementTree.fromstring(content)  # noqa: S314 - our own file


def test_page_says_what_has_not_been_run(tmp_path: Path) -> None:
    results = stored(tmp_path, *of_method("sft", (0.5, 0.6)))
    text = page.files(results)["evidence.md"]
    assert "| GRPO | not run yet |" in text
    assert "At equal operations: not run yet." in text
    assert f"- {SCENARIOS['few'].title}" in text


def test_page_says_why_a_method_failed(tmp_path: Path) -> None:
    run = Run("clean", "grpo", 1, (1e-3,), STEPS)
    failed = {"key": run.key, **vars(run), "rates": [1e-3], "failed": "no row is left to train on"}
    results = stored(tmp_path, *of_method("sft", (0.5,)), failed)
    assert f"| {METHODS['grpo'].label} | failed: no row is left to train on |" in page.files(results)["evidence.md"]


def test_results_of_another_model_or_version_are_refused(tmp_path: Path) -> None:
    results = stored(tmp_path, *of_method("sft", (0.5,)))
    results.check_model("tiny")
    with pytest.raises(EvidenceError, match=r"has results of tiny, not of large. Name another file with --results."):
        results.check_model("large")
    results.path.write_text(results.text().replace('"version": 1', '"version": 0'), encoding="utf-8")
    with pytest.raises(EvidenceError, match="results of version 0"):
        Results.read(results.path)


def test_reference_is_not_run_twice(tmp_path: Path) -> None:
    results = stored(tmp_path, *of_method("gft", (0.5, 0.6), flops=3e12))
    assert not any(run.budget == "flops" and run.method == "gft" for run in runs(FULL, results))
    found = cell(results, "clean", "gft", "flops")
    assert found is not None
    assert list(found.runs) == [1, 2]
