"""Intervals against published and hand-computed values, and their error rates by simulation."""

import math
import random

import pytest

from app.core.spec.intervals import mean_interval, paired_difference, student, wilson


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (9, 2.2622), (10, 2.2281), (15, 2.1314), (30, 2.0423), (120, 1.9799), (10**6, 1.9600)],
)
def test_student_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=2e-4)


@pytest.mark.parametrize(
    ("passed", "rows", "low", "high"),
    # Newcombe (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_newcombe(passed: int, rows: int, low: float, high: float) -> None:
    assert wilson(passed, rows) == pytest.approx((low, high), abs=2e-4)
    assert wilson(rows - passed, rows) == pytest.approx((1 - high, 1 - low), abs=2e-4)


def test_shares_are_wilsons() -> None:
    assert mean_interval([1.0, 0.0, 1.0]) == wilson(2, 3)


def test_mean_of_graded_values() -> None:
    """Mean 0.5, deviation 0.2582, error 0.1291, 3.1824 times that to both sides."""
    interval = mean_interval([0.2, 0.4, 0.6, 0.8])
    assert interval == pytest.approx((0.5 - 0.41085, 0.5 + 0.41085), abs=1e-5)
    assert mean_interval([0.4]) is None


def test_mean_by_tokens() -> None:
    """Ratio 1.2; residuals 0.75 * -0.2, 0.75 * 0.8 and 1.5 * -0.3 add to 0, squares to 0.585."""
    interval = mean_interval([1.0, 2.0, 0.9], [10.0, 10.0, 20.0])
    error = math.sqrt(0.585 / 2 / 3)
    assert interval == pytest.approx((1.2 - 4.3027 * error, 1.2 + 4.3027 * error))


def test_equal_weights_are_none() -> None:
    assert mean_interval([0.2, 0.5, 0.9], [4.0, 4.0, 4.0]) == pytest.approx(mean_interval([0.2, 0.5, 0.9]))


def test_paired_difference_by_hand() -> None:
    """Ten rows, 6 better and 0 worse: with the two further rows (7 - 1) / 12, variance 5 / 11."""
    found = paired_difference([0.0] * 10, [1.0] * 6 + [0.0] * 4)
    reach = student(11) * math.sqrt(5 / 11 / 12)
    assert found == pytest.approx((0.6, 0.5 - reach, 0.5 + reach, 10))


@pytest.mark.parametrize("rows", [10, 20, 100, 1000])
def test_five_different_rows_prove_nothing(rows: int) -> None:
    assert paired_difference([0.0] * rows, [1.0] * 5 + [0.0] * (rows - 5)).low < 0
    assert paired_difference([0.0] * rows, [1.0] * 6 + [0.0] * (rows - 6)).low > 0


def test_equal_rows_differ_by_nothing() -> None:
    assert paired_difference([0.3, 1.0], [0.3, 1.0]) == (0, 0, 0, 2)


def test_pairs_beat_two_intervals() -> None:
    """The same gain of 0.1 on each of 20 very different rows is certain, though the two intervals overlap widely."""
    before = [row / 20 for row in range(20)]
    after = [value + 0.1 for value in before]
    alone = [mean_interval(values) for values in (before, after)]
    assert alone[0] is not None
    assert alone[1] is not None
    assert alone[0].high > alone[1].low
    assert paired_difference(before, after).low > 0.05


@pytest.mark.parametrize(("rows", "agree"), [(10, 0.5), (50, 0.7), (100, 0.9)])
def test_equal_models_rarely_differ(rows: int, agree: float) -> None:
    """Two models of accuracy 0.75: the interval excludes 0 in at most 5 % of comparisons, half of it on each side."""
    draw, repeats = random.Random(5), 1500  # noqa: S311 - a simulation
    worse = better = 0
    for _ in range(repeats):
        shared = [draw.random() < 0.75 for _ in range(rows)]
        one, two = ([known if draw.random() < agree else draw.random() < 0.75 for known in shared] for _ in range(2))
        found = paired_difference(list(map(float, one)), list(map(float, two)))
        worse, better = worse + (found.high < 0), better + (found.low > 0)
    assert max(worse, better) / repeats < 0.035
    assert (worse + better) / repeats < 0.06
