"""Group-normalised advantages."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.spec.advantages import group_advantages, has_contrast

rewards = st.lists(st.floats(-10, 10), min_size=2, max_size=32)


def test_by_hand() -> None:
    """Mean 0.25, sample standard deviation 0.5 (not 0.433, the population's)."""
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_no_scaling_by_hand() -> None:
    """Groups without contrast and groups of one are the same with both scalings."""
    assert group_advantages([1.0, 0.0, None, 0.5], "none") == [0.5, -0.5, None, 0.0]
    assert group_advantages([1.0, 1.0 + 1e-7], "none") == [0.0, 0.0]
    assert group_advantages([0.5], "none") == [0.5]


@given(rewards)
def test_advantages_sum_to_zero_in_reward_order(values: list[float]) -> None:
    advantages = [advantage for advantage in group_advantages(values) if advantage is not None]
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-6)
    assert [advantage for _, advantage in sorted(zip(values, advantages, strict=True))] == sorted(advantages)


@given(rewards)
def test_advantages_have_unit_deviation_or_are_zero(values: list[float]) -> None:
    advantages = [advantage for advantage in group_advantages(values) if advantage is not None]
    spread = math.sqrt(math.fsum(advantage**2 for advantage in advantages) / (len(advantages) - 1))
    if max(values) - min(values) > 1e-3:
        assert spread == pytest.approx(1, abs=0.01)
    if max(values) - min(values) <= 1e-6:
        assert advantages == [0.0] * len(advantages)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.3, 0.1 + 0.2, 0.3], [0.0, 1e-6], [-0.0, 0.0]])
def test_float_noise_is_no_contrast(values: list[float]) -> None:
    assert not has_contrast(values)
    assert group_advantages(values) == [0.0] * len(values)


def test_small_difference_is_contrast() -> None:
    assert has_contrast([0.5, 0.50001])
    low, high = group_advantages([0.5, 0.50001])
    assert low is not None
    assert high is not None
    assert low < -0.5 < 0.5 < high


@pytest.mark.parametrize("reward", [1.0, 0.0, -0.5])
def test_group_of_one_has_its_reward(reward: float) -> None:
    assert group_advantages([reward]) == [reward]
    assert has_contrast([reward])


def test_failed_grade_leaves_the_group() -> None:
    advantages = group_advantages([1.0, None, 0.0, None, 0.5])
    assert advantages[1] is None
    assert advantages[3] is None
    assert [advantages[0], advantages[2], advantages[4]] == group_advantages([1.0, 0.0, 0.5])


def test_single_graded_member_is_a_group_of_one() -> None:
    assert group_advantages([None, 0.25, None]) == [None, 0.25, None]


def test_ungraded_group_has_no_advantages() -> None:
    assert group_advantages([None, None]) == [None, None]
    assert group_advantages([]) == []
    assert not has_contrast([])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_reward_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="a failed grade is None"):
        group_advantages([1.0, bad])
