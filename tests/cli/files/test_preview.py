"""How `grouptune files preview` prints rows."""

from io import StringIO

import pytest
from rich.console import Console

from app.cli.files import preview


def previewed(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """Return what `grouptune files preview` prints for a row with terminal escape sequences."""
    texts = ["a", "\x1b[2J", "[red]b[/red]", "\x9bé\n"]
    spans = [
        {"source": source, "model": "big" if source == "teacher" else None, "tokens": 4, "fits": fits, "texts": texts}
        for source, fits in (("prompt", True), ("expert", True), ("teacher", False))
    ]
    bins = [{"start": at * 10, "end": at * 10 + 10, "count": count} for at, count in enumerate([0, 0, 8, 1, 0, 0, 1])]
    row = {"median": 22, "p95": 38, "max": 61, "bins": bins}
    lengths = {"rows": 4_000, "measured_rows": 1_024, "row": row, "too_long": 1}
    lengths["longest_too_long"] = [{"line": 7, "tokens": 61}]
    console = Console(file=StringIO(), width=80, force_terminal=terminal, color_system=None, highlight=False)
    written: list[str] = []
    monkeypatch.setattr(preview, "out", console)
    monkeypatch.setattr(preview, "write_line", written.append)
    monkeypatch.setattr(preview, "note", written.append)
    preview.show(
        {
            "model": "tiny",
            "max_length": 60,
            "data": [{"line": 3, "spans": spans, "error": None}],
            "has_more": True,
            "lengths": lengths,
        }
    )
    assert isinstance(console.file, StringIO)
    return "\n".join([console.file.getvalue(), *written])


def test_preview_neutralises_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = previewed(monkeypatch, terminal=False)
    assert 'line 3 prompt: 4 tokens, context only: "a\\u001b[2J[red]b[/red]\ufffdé\\n"' in plain
    assert "line 3 teacher 1 (big): 4 tokens, TOO LONG, dropped: " in plain
    assert "(1,024 of 4,000 rows): median 22, 95th percentile 38, longest 61" in plain
    bars = [line.split() for line in plain.splitlines() if "█" in line or "..." in line]
    assert [(bar[0], len(bar[1:2] and bar[1])) for bar in bars] == [
        *(("...", 0), ("20", 32), ("30", 4), ("...", 0), ("60", 4))
    ]
    assert "line 7: 61 tokens exceed max_length 60" in plain
    coloured = previewed(monkeypatch, terminal=True)
    assert "\u241b[2J[red]b[/red]\ufffdé" in coloured
    assert "\x1b[2J" not in coloured
    assert "expert: 4 tokens, trained on" in coloured
