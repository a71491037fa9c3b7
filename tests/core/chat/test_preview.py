"""How long rows are, as numbers and bars."""

import pytest

from app.core.chat.preview import Distribution


@pytest.mark.parametrize(
    ("values", "width", "bins"),
    [([0], 1, 1), ([23], 1, 24), ([24], 2, 13), ([1, 130_000], 10_000, 14), ([5] * 3 + [999], 50, 20)],
)
def test_histogram_has_round_bins_of_all_values(values: list[int], width: int, bins: int) -> None:
    found = Distribution.of(values)
    assert found is not None
    assert [(one.start, one.end) for one in found.bins] == [(at * width, (at + 1) * width) for at in range(bins)]
    assert sum(one.count for one in found.bins) == found.count == len(values)


def test_numbers_of_a_distribution() -> None:
    found = Distribution.of(list(range(101)))
    assert found is not None
    assert (found.min, found.median, found.p95, found.max, found.total) == (0, 50, 95, 100, 5_050)
    assert Distribution.of([]) is None
