"""95 % intervals over seeds and test rows together, and the words for what they show.

Every method answers the same test rows with every seed, so a mean varies for two reasons: other seeds would train other
models, and other rows would be harder or easier. Both variances are estimated and added (two-way clustering: Cameron,
Gelbach and Miller 2011), and what both contain is subtracted once. Differences are paired: same seed, same row.
"""

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Final, NamedTuple

from app.core.spec.intervals import paired_difference, student

Grid = Sequence[Sequence[float]]
"""Scores by seed, then by row."""

BETTER: Final = "better"
WORSE: Final = "worse"
LEVEL: Final = "level"


class Estimate(NamedTuple):
    """A mean with the ends of its 95 % interval, which need at least two seeds."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def mean_of(scores: Grid) -> Estimate:
    """Return the mean over seeds and rows."""
    mean = fmean(fmean(row) for row in scores)
    if len(scores) < 2:
        return Estimate(mean, None, None, len(scores))
    reach = _reach(scores)
    return Estimate(mean, mean - reach, mean + reach, len(scores))


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of one number a seed, with Student's t interval."""
    mean, seeds = fmean(values), len(values)
    if seeds < 2:
        return Estimate(mean, None, None, seeds)
    reach = student(seeds - 1) * math.sqrt(variance(values) / seeds)
    return Estimate(mean, mean - reach, mean + reach, seeds)


def difference(new: Grid, old: Grid) -> Estimate:
    """Return how far `new` is above `old`, seed by seed and row by row."""
    return mean_of([[a - b for a, b in zip(*pair, strict=True)] for pair in zip(new, old, strict=True)])


def verdict(found: Estimate, *, more_is_better: bool = True) -> str | None:
    """Return the word for a difference: `level` if its interval contains 0; None without an interval."""
    if found.low is None or found.high is None:
        return None
    if found.low > 0:
        return BETTER if more_is_better else WORSE
    if found.high < 0:
        return WORSE if more_is_better else BETTER
    return LEVEL


def _reach(scores: Grid) -> float:
    """Return half the width of the interval.

    Degrees of freedom are Satterthwaite's, so few seeds give a wide interval where seeds differ. The variance over rows
    is that of a comparison by `paired_difference`, which also holds for few rows that differ.
    """
    seeds, rows = len(scores), len(scores[0])
    over_seeds = variance(fmean(row) for row in scores) / seeds
    columns = [fmean(column) for column in zip(*scores, strict=True)]
    found = paired_difference([0.0] * rows, columns)
    over_rows = ((found.high - found.low) / 2 / student(rows + 1)) ** 2
    cells = [value for row in scores for value in row]
    shared = variance(cells) / len(cells) if len(cells) > 1 else 0.0
    total = max(over_seeds, over_rows, over_seeds + over_rows - shared)
    if not total:
        return 0.0
    freedom = (over_seeds + over_rows) ** 2 / (over_seeds**2 / (seeds - 1) + over_rows**2 / (rows + 1))
    return student(max(1, math.floor(freedom))) * math.sqrt(total)
