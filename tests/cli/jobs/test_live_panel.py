"""How a job looks while it runs: on a terminal of 80 columns, and without one."""

import time
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from app.cli.files import preview
from app.cli.files.commands import age, human_bytes
from app.cli.jobs.live_panel import JobView, clock, follow, sparkline
from app.cli.jobs.watcher import Snapshot


def snapshot(*events: dict[str, Any], status: str = "running", step: int = 0, **fields: Any) -> Snapshot:
    progress = {"step": step, "total_steps": 20, "eta_seconds": 61.0}
    job = {"id": "ftjob-1", "status": status, "validation_file": "file-2", "progress": progress}
    whole = [{"id": "ftevent-1", "created_at": 0, "level": "info", "type": "message", "data": None} | e for e in events]
    return Snapshot(job | fields, whole)


def evaluated(step: int, accuracy: float) -> dict[str, Any]:
    return {"message": "Evaluation", "data": {"step": step, "values": {"eval/accuracy": accuracy}}}


def trained(step: int, reward: float) -> dict[str, Any]:
    data = {"step": step, "total_steps": 20, "gft/expert/reward": 1.0, "gft/self/reward": reward}
    return {"message": f"Step {step}/20", "type": "metrics", "data": data}


def shown(*snapshots: Snapshot, terminal: bool) -> list[str]:
    console = Console(file=StringIO(), width=80, force_terminal=terminal, color_system=None, highlight=False)
    view = JobView("tiny learns to add")
    if terminal:
        for one in snapshots:
            view.take(one)
        console.print(view)
    else:
        follow(snapshots, view, console=console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_the_panel_has_step_rewards_and_held_out_problems() -> None:
    lines = shown(
        snapshot(evaluated(0, 0.25)),
        snapshot(trained(1, 0.2), trained(2, 0.4), evaluated(2, 0.5), step=2),
        terminal=True,
    )
    text = "\n".join(lines)
    for part in ("step 2/20", "1:01 left", "expert 1.00", "self 0.30", "25% → 50% solved", "running"):
        assert part in text, (part, text)


def test_a_long_message_neither_widens_the_panel_nor_hides_its_labels() -> None:
    lines = shown(snapshot({"message": "The job failed: " + "because " * 40}, status="failed"), terminal=True)
    assert max(map(len, lines)) == 78
    for label in ("status  ", "reward  ", "held-out  ", "latest  "):
        assert any(label in line for line in lines), (label, lines)


def test_a_job_without_held_out_rows_promises_no_measurement() -> None:
    assert not any("held-out" in line for line in shown(snapshot(validation_file=None), terminal=True))


def test_markup_in_messages_is_text() -> None:
    assert any("[bold]x[/]" in line for line in shown(snapshot({"message": "[bold]x[/]"}), terminal=True))


def test_without_a_terminal_there_is_a_line_for_whatever_changes() -> None:
    lines = shown(
        snapshot(status="queued", queue_position=3),
        snapshot(evaluated(0, 0.1)),
        snapshot({"message": "a row was dropped", "level": "warn"}, trained(5, 0.5), step=5),
        snapshot(evaluated(20, 0.9), status="succeeded", step=20),
        terminal=False,
    )
    assert lines[0] == "ftjob-1: queued, number 3 in the queue"
    for line in ("ftjob-1: running", "held-out problems solved at step 0: 10%", "warn: a row was dropped"):
        assert line in lines, (line, lines)
    assert "step 5/20: reward expert 1.00, self 0.50, 1:01 left" in lines, lines
    assert lines[-2:] == ["held-out problems solved at step 20: 90%", "ftjob-1: succeeded"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (247, "4:07"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("ago", "text"), [(-9, "0s"), (12, "12s"), (301, "5m"), (7300, "2h"), (40 * 86_400, "40d")])
def test_age(ago: int, text: str) -> None:
    assert age(int(time.time()) - ago) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (1_400_000, "1.4 MB"), (2_500_000_000, "2.5 GB")])
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_a_sparkline_goes_from_nothing_to_everything_and_forgets_the_oldest() -> None:
    assert sparkline([-1.0, 0.0, 0.5, 1.0, 2.0]) == "▁▁▅██"
    assert sparkline([1.0] + [0.0] * 24) == "▁" * 24


def previewed(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """What `grouptune files preview` prints of a row that would steer a terminal."""
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


def test_a_previewed_row_is_labelled_and_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = previewed(monkeypatch, terminal=False)
    assert 'line 3 prompt: 4 tokens, read only: "a\\u001b[2J[red]b[/red]\ufffdé\\n"' in plain
    assert "line 3 teacher 1 (big): 4 tokens, TOO LONG, dropped: " in plain
    assert "(1,024 of 4,000 rows): median 22, 95% up to 38, longest 61" in plain
    bars = [line.split() for line in plain.splitlines() if "█" in line or "..." in line]
    assert [(bar[0], len(bar[1:2] and bar[1])) for bar in bars] == [
        *(("...", 0), ("20", 32), ("30", 4), ("...", 0), ("60", 4))
    ]
    assert "line 7: 61 tokens are over max_length 60" in plain
    coloured = previewed(monkeypatch, terminal=True)
    assert "\u241b[2J[red]b[/red]\ufffdé" in coloured
    assert "\x1b[2J" not in coloured
    assert "expert: 4 tokens, trained on" in coloured
