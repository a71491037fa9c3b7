"""Compares two runs of one eval on the same rows: paired differences with their 95 % intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.evals.tables import EvalRow, EvalRun, EvalRunStatus
from app.core.plurals import plural
from app.core.spec.evals import RowStatus
from app.core.spec.intervals import Difference, paired_difference

MAX_CHANGED: Final = 200
"""Rows with another result that a comparison lists."""


@dataclass(frozen=True)
class PairedMeans:
    """One number of both runs, on the rows on which both have it."""

    name: str
    baseline: float
    run: float
    difference: Difference


@dataclass(frozen=True)
class ChangedRow:
    """A row that one run passed and the other did not."""

    number: int
    baseline: RowStatus
    run: RowStatus


@dataclass(frozen=True)
class RunComparison:
    """How a run differs from the baseline."""

    rows: int
    errored_rows: int
    """Rows without a result in either run, which count in no mean."""
    pass_rate: PairedMeans | None
    """None if no row has a result in both runs."""
    criteria: tuple[PairedMeans, ...]
    """Mean scores by criterion."""
    gained: int
    """Rows that only the run passed."""
    lost: int
    """Rows that only the baseline passed."""
    changed: tuple[ChangedRow, ...]
    """The first of these rows."""


def compare(session: Session, baseline: EvalRun, run: EvalRun) -> RunComparison:
    """Compare two completed runs on the same rows. Raises `InvalidRequest` with the `param` of one that is not."""
    _check(baseline, run)
    before, after = _results(session, baseline), _results(session, run)
    statuses = [(number, before[number][0], after[number][0]) for number in sorted(before)]
    graded = [pair for pair in statuses if RowStatus.error not in pair[1:]]
    changed = [ChangedRow(*pair) for pair in graded if pair[1] != pair[2]]
    gained = sum(row.run is RowStatus.passed for row in changed)
    passes = [(float(old is RowStatus.passed), float(new is RowStatus.passed)) for _, old, new in graded]
    names = dict.fromkeys(name for _, scores in before.values() for name in scores)
    criteria = [_criterion(name, before, after) for name in names]
    return RunComparison(
        rows=run.rows,
        errored_rows=len(statuses) - len(graded),
        pass_rate=_bounded(_means("pass_rate", passes)),
        criteria=tuple(found for found in criteria if found is not None),
        gained=gained,
        lost=len(changed) - gained,
        changed=tuple(changed[:MAX_CHANGED]),
    )


def _bounded(rate: PairedMeans | None) -> PairedMeans | None:
    """Return the pass rates with an interval that ends at the largest possible differences."""
    if rate is None:
        return None
    found = rate.difference
    return replace(rate, difference=found._replace(low=max(-1.0, found.low), high=min(1.0, found.high)))


def _check(baseline: EvalRun, run: EvalRun) -> None:
    for param, one in (("baseline_id", baseline), ("run_id", run)):
        if one.status != EvalRunStatus.completed:
            raise InvalidRequest(
                f"The run '{one.id}' is {one.status}. Only completed runs can be compared.",
                param=param,
                code="eval_run_not_completed",
            )
    if baseline.rows_sha256 != run.rows_sha256:
        raise InvalidRequest(
            f"The runs have different rows: '{baseline.id}' has {plural(baseline.rows, 'row')} and '{run.id}' has "
            f"{plural(run.rows, 'row')}, and their items or their order differ. Create a run of each model with the "
            "same data source.",
            param="baseline_id",
            code="different_rows",
        )


_Row = tuple[RowStatus, dict[str, float]]


def _results(session: Session, run: EvalRun) -> dict[int, _Row]:
    """Return the status and the scores by criterion of each row, by its number."""
    rows = session.execute(select(EvalRow.number, EvalRow.status, EvalRow.results).where(EvalRow.run_id == run.id))
    return {row.number: (RowStatus(row.status), _scores(row.results or ())) for row in rows}


def _scores(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {result["name"]: result["score"] for result in results if result["score"] is not None}


def _criterion(name: str, before: Mapping[int, _Row], after: Mapping[int, _Row]) -> PairedMeans | None:
    pairs = [(before[number][1].get(name), after[number][1].get(name)) for number in sorted(before)]
    return _means(name, [(old, new) for old, new in pairs if old is not None and new is not None])


def _means(name: str, pairs: Sequence[tuple[float, float]]) -> PairedMeans | None:
    if not pairs:
        return None
    olds, news = zip(*pairs, strict=True)
    return PairedMeans(name, sum(olds) / len(olds), sum(news) / len(news), paired_difference(olds, news))
