"""The learning-rate schedule."""

import pytest

from worker.training.schedule import learning_rate


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate(step, 100, 1e-3, "constant") for step in range(1, 101)]
    assert rates[:4] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])
    assert set(rates[3:]) == {1e-3}
    falling = [learning_rate(step, 100, 1e-3, "cosine") for step in range(1, 101)]
    assert falling[:3] == rates[:3]
    assert falling[2:] == sorted(falling[2:], reverse=True)
    assert falling[-1] == pytest.approx(1e-4)
    assert learning_rate(1, 1, 1e-3, "cosine") == learning_rate(1, 1, 1e-3, "constant") == 1e-3
