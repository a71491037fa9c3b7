"""Results of a held-out evaluation by row: what intervals and paired comparisons are computed from."""

from pydantic import Field

from app.core.spec.frozen import Frozen
from app.core.spec.intervals import Difference, Interval, mean_interval, paired_difference


class RowScores(Frozen):
    """One metric by row, in the order of `RowResults.lines`. The metric is the mean over the rows that have a value."""

    values: tuple[float | None, ...]
    """None for a row without a value, such as one whose grade failed."""
    weights: tuple[float, ...] | None = None
    """Weight of each row in the mean, such as its number of tokens; None if all are equal."""


class RowResults(Frozen):
    """The metrics of one evaluation by row."""

    lines: tuple[int, ...] = ()
    """Lines of the held-out file, from 1."""
    metrics: dict[str, RowScores] = Field(default_factory=dict)

    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % interval of each metric that has one."""
        found = {name: _interval(scores) for name, scores in self.metrics.items()}
        return {name: interval for name, interval in found.items() if interval is not None}


def _interval(scores: RowScores) -> Interval | None:
    places = [place for place, value in enumerate(scores.values) if value is not None and _weight(scores, place)]
    values = [float(scores.values[place] or 0.0) for place in places]
    if not values:
        return None
    return mean_interval(values, None if scores.weights is None else [scores.weights[place] for place in places])


def _weight(scores: RowScores, place: int) -> float:
    return 1.0 if scores.weights is None else scores.weights[place]


def difference(metric: str, before: RowResults, after: RowResults) -> Difference | None:
    """Return how far `after` is above `before` on the lines that both have a value of.

    None if there are none. Weights are those of `after`.
    """
    if metric not in before.metrics or metric not in after.metrics:
        return None
    old_scores, new_scores = before.metrics[metric], after.metrics[metric]
    old = dict(zip(before.lines, old_scores.values, strict=True))
    rows: list[tuple[float, float, float]] = []
    for place, (line, new) in enumerate(zip(after.lines, new_scores.values, strict=True)):
        earlier, weight = old.get(line), _weight(new_scores, place)
        if earlier is not None and new is not None and weight:
            rows.append((earlier, new, weight))
    if not rows:
        return None
    olds, news, weights = zip(*rows, strict=True)
    return paired_difference(olds, news, None if new_scores.weights is None else weights)
