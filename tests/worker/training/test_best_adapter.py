"""Selection of the published adapter."""

import pytest
import torch

from app.core.spec.reports import Evaluated
from tests.worker.training.architectures import randomise
from worker.training.best_adapter import BestAdapter
from worker.training.model import Policy


def take(best_adapter: BestAdapter, policy: Policy, step: int, score: float | None, name: str = "eval/reward") -> bool:
    """One evaluation of an adapter that is random in its step."""
    randomise(policy, seed=step)
    policy.version = step
    return best_adapter.take(Evaluated(step=step, values={name: score}), policy)


def published(best_adapter: BestAdapter, policy: Policy) -> int:
    """The step whose adapter is restored; checks that its weights are."""
    best_adapter.restore(policy)
    found = {name: value.detach().clone() for name, value in policy.trained.items()}
    randomise(policy, seed=policy.version)
    assert all(torch.equal(found[name], value) for name, value in policy.trained.items())
    return policy.version


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.1, 0.5, 0.3], 2), ([0.5, 0.1], 1), ([0.2, 0.4, 0.4], 3), ([0.1, None, 0.05], 1), ([0.0, 0.0], 2)],
)
def test_best_evaluation_is_published(scores: list[float | None], best: int, llama: Policy) -> None:
    best_adapter = BestAdapter()
    for step, score in enumerate(scores, start=1):
        take(best_adapter, llama, step, score)
    assert published(best_adapter, llama) == best


def test_untrained_model_is_never_published(llama: Policy) -> None:
    best_adapter = BestAdapter()
    assert not take(best_adapter, llama, 0, 0.9)
    assert take(best_adapter, llama, 1, 0.1)
    assert published(best_adapter, llama) == 1
    assert "before training it was 0.9, so training did not help" in best_adapter.reason(1)


def test_lowest_loss_wins_without_a_grader(llama: Policy) -> None:
    best_adapter = BestAdapter(metric="eval/loss")
    for step, loss in enumerate([2.0, 0.5, 0.8], start=1):
        take(best_adapter, llama, step, loss, "eval/loss")
    assert published(best_adapter, llama) == 2
    assert "held-out loss 0.5 at step 2 is the best of 3 evaluations" in best_adapter.reason(3)


def test_last_adapter_without_evaluations(llama: Policy) -> None:
    llama.version = 9
    randomise(llama, seed=9)
    assert published(BestAdapter(), llama) == 9
    assert "no held-out rows select one" in BestAdapter().reason(9)


def test_negative_reward_is_no_loss(llama: Policy) -> None:
    best_adapter = BestAdapter()
    take(best_adapter, llama, 0, -0.3)
    take(best_adapter, llama, 1, -0.4)
    assert best_adapter.reason(1) == (
        "mean held-out reward -0.4 at step 1 is the best of 1 evaluations up to step 1; before training it was -0.3, "
        "so training did not help"
    )
