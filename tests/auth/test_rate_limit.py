"""Wait times in the format of OpenAI's headers."""

import pytest

from app.auth.rate_limit import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (59.4, "59s"), (59.6, "1m0s"), (360, "6m0s"), (61.2, "1m1s")],
)
def test_durations_follow_the_openai_format(seconds: float, text: str) -> None:
    assert duration(seconds) == text
