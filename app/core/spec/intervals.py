"""95 % confidence intervals of means over rows, and of the difference between two models on the same rows.

Pure functions of numbers. Rows count as a random sample of the rows that the model will see in use.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

_NORMAL: Final = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
_STUDENT: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""97.5 % quantiles of Student's t for 1 to 9 degrees of freedom."""


class Interval(NamedTuple):
    """The ends of a 95 % confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """How much a model is above another one in the mean over the same rows."""

    mean: float
    low: float
    high: float
    rows: int


@lru_cache(maxsize=64)
def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution, to 0.0002.

    From 10 degrees of freedom on by the expansion of Abramowitz and Stegun, 26.7.5.
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z, n = _NORMAL, freedom
    terms = (
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
    )
    return z + math.fsum(terms)


def wilson(passed: int, rows: int) -> Interval:
    """Return Wilson's score interval of the share `passed / rows` of at least one row."""
    share, z2 = passed / rows, _NORMAL**2
    centre = share + z2 / (2 * rows)
    spread = _NORMAL * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    low, high = ((centre + sign * spread) / (1 + z2 / rows) for sign in (-1, 1))
    return Interval(0.0 if passed == 0 else low, 1.0 if passed == rows else high)


def mean_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval | None:
    """Return the interval of the mean of at least one value; weighted, it is one of a ratio of two sums.

    Wilson's if all values are 0 or 1 and have the same weight, else Student's t. None for a single other value: one
    row says nothing about the spread.
    """
    if weights is None and all(value in (0, 1) for value in values):
        return wilson(round(sum(values)), len(values))
    if len(values) < 2:
        return None
    mean, error = _mean_and_error(values, weights)
    reach = student(len(values) - 1) * error
    return Interval(mean - reach, mean + reach)


def paired_difference(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float] | None = None
) -> Difference:
    """Return the mean of `after - before` over at least one row, with its interval.

    The interval is Student's t over the differences and two further rows: one better and one worse by the largest
    difference. With 0/1 scores this is the interval of Bonett and Price (2012) for paired proportions. It keeps the
    error rate for few rows and for few rows that differ, where plain t does not: among 10 rows or more, 5 that differ
    never exclude 0, as in the exact sign test.
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    mean, _ = _mean_and_error(changes, weights)
    largest = max(map(abs, changes))
    middle = [1.0] if weights is None else [math.fsum(weights) / len(weights)]
    padded = None if weights is None else [*weights, *middle * 2]
    centre, error = _mean_and_error([*changes, largest, -largest], padded)
    reach = student(len(changes) + 1) * error
    return Difference(mean, centre - reach, centre + reach, len(changes))


def _mean_and_error(values: Sequence[float], weights: Sequence[float] | None) -> tuple[float, float]:
    """Return the weighted mean and its standard error, by linearisation of the ratio; 0 for one value."""
    count = len(values)
    shares = [1.0] * count if weights is None else [weight * count / math.fsum(weights) for weight in weights]
    mean = math.fsum(share * value for share, value in zip(shares, values, strict=True)) / count
    if count < 2:
        return mean, 0.0
    squares = math.fsum((share * (value - mean)) ** 2 for share, value in zip(shares, values, strict=True))
    return mean, math.sqrt(squares / (count - 1) / count)
