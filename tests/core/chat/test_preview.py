"""The distribution of row lengths: statistics and histogram."""

import pytest

from app.core.chat.preview import Distribution


@pytest.mark.parametrize(
    ("values", "width", "bins"),
    [([0], 1, 1), ([23], 1, 24), ([24], 2, 13), ([1, 130_000], 10_000, 14), ([5] * 3 + [999], 50, 20)],
)
def test_histogram_has_round_bins_of_all_values(values: list[int], width: int, bins: int) -> None:
    distribution = Distribution.of(values)
    assert distribution is not None
    assert [(bin_.start, bin_.end) for bin_ in distribution.bins] == [
        (at * width, (at + 1) * width) for at in range(bins)
    ]
    assert sum(bin_.count for bin_ in distribution.bins) == distribution.count == len(values)


def test_numbers_of_a_distribution() -> None:
    distribution = Distribution.of(list(range(101)))
    assert distribution is not None
    assert (distribution.min, distribution.median, distribution.p95, distribution.max, distribution.total) == (
        0,
        50,
        95,
        100,
        5_050,
    )
    assert Distribution.of([]) is None
