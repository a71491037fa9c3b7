"""Early stopping by patience."""

import pytest

from app.core.spec.reports import Evaluated
from worker.training.best_adapter import BestAdapter
from worker.training.early_stopping import EarlyStopping
from worker.training.model import Policy


def take(best_adapter: BestAdapter, policy: Policy, step: int, score: float) -> bool:
    """Evaluates step `step` with `score`; returns whether the run should stop."""
    policy.version = step
    best_adapter.take(Evaluated(step=step, values={"eval/reward": score}), policy)
    return best_adapter.early_stopping.should_stop


def test_patience_counts_stale_evaluations(llama: Policy) -> None:
    best_adapter = BestAdapter(EarlyStopping(patience=2))
    scores = [0.3, 0.2, 0.4, 0.4, 0.1]
    stops = [take(best_adapter, llama, step, score) for step, score in enumerate(scores, start=1)]
    assert stops == [False, False, False, False, True]


def test_without_patience_nothing_stops(llama: Policy) -> None:
    best_adapter = BestAdapter()
    assert not any(take(best_adapter, llama, step, 1.0 - step / 20) for step in range(1, 20))


@pytest.mark.parametrize(("improved", "stale"), [([False, False], 2), ([False, True], 0), ([True, False], 1)])
def test_an_improvement_resets_the_count(improved: list[bool], stale: int) -> None:
    early_stopping = EarlyStopping(patience=9)
    for has_improved in improved:
        early_stopping.note(has_improved=has_improved)
    assert early_stopping.stale == stale
