"""The sum of tensors that exist at the same time, from the profiler's events."""

import pytest

from bench.sharding import highest_sum


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ([], 0),
        ([(1, 10), (2, 20), (1, -10), (3, 5)], 30),
        ([(1, 10), (1, -10)] * 3, 10),
        ([(9, -50), (1, 10)], 10),  # allocated before the recording
        ([(1, 10), (1, 10), (1, 10)], 10),  # two frees are missing
    ],
)
def test_highest_sum_of_allocations(changes: list[tuple[int, int]], most: int) -> None:
    assert highest_sum(changes) == most
