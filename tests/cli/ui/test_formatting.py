"""Formatting of sizes, ages and durations."""

import time

import pytest

from app.cli.ui.formatting import age, clock, human_bytes


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (247, "4:07"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("ago", "text"), [(-9, "0s"), (12, "12s"), (301, "5m"), (7300, "2h"), (40 * 86_400, "40d")])
def test_age(ago: int, text: str) -> None:
    assert age(int(time.time()) - ago) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (1_400_000, "1.4 MB"), (2_500_000_000, "2.5 GB")])
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text
