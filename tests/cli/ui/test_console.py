"""Progress on a terminal."""

import re
from io import StringIO
from typing import Final

import pytest
from rich.console import Console

from app.cli.ui import console

WIDTH: Final = 40


def test_spinner_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer line would stay on the screen with each turn of the spinner."""
    monkeypatch.setenv("TERM", "xterm")
    screen = StringIO()
    monkeypatch.setattr(
        console, "err", Console(file=screen, force_terminal=True, width=WIDTH, soft_wrap=True, emoji=False)
    )
    with console.StatusLine() as progress:
        progress("Converting " * WIDTH)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()))
    assert any("Converting" in line for line in lines)
    assert max(map(len, lines)) < WIDTH
