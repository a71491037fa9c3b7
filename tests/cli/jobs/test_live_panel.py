"""How a running job is shown on a terminal of 80 columns, and without a terminal."""

from io import StringIO
from typing import Any

from rich.console import Console

from app.cli.jobs.live_panel import LivePanel, follow, sparkline
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
    panel = LivePanel("tiny learns to add")
    if terminal:
        for update in snapshots:
            panel.update(update)
        console.print(panel)
    else:
        follow(snapshots, panel, console=console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_panel_shows_progress_and_rewards() -> None:
    lines = shown(
        snapshot(evaluated(0, 0.25)),
        snapshot(trained(1, 0.2), trained(2, 0.4), evaluated(2, 0.5), step=2),
        terminal=True,
    )
    text = "\n".join(lines)
    for part in ("step 2/20", "1:01 left", "expert 1.00", "self 0.30", "25% → 50% solved", "running"):
        assert part in text, (part, text)


def test_panel_shows_margin_of_pairs() -> None:
    won = {"message": "Evaluation", "data": {"step": 0, "values": {"eval/rewards/accuracies": 0.6}}}
    pairs = {"step": 5, "total_steps": 20, "rewards/margins": 0.75, "rewards/chosen": 0.5}
    step = {"message": "Step 5/20", "type": "metrics", "data": pairs}
    text = "\n".join(shown(snapshot(won, step, step=5), terminal=True))
    assert "margin 0.75" in text
    assert "60% won" in text
    lines = shown(snapshot(won), snapshot(step, step=5), terminal=False)
    assert "held-out pairs won at step 0: 60%" in lines
    assert "step 5/20: reward margin 0.75, 1:01 left" in lines


def test_long_message_keeps_the_layout() -> None:
    lines = shown(snapshot({"message": "The job failed: " + "because " * 40}, status="failed"), terminal=True)
    assert max(map(len, lines)) == 78
    for label in ("status  ", "reward  ", "held-out  ", "latest  "):
        assert any(label in line for line in lines), (label, lines)


def test_panel_says_that_a_job_waits_for_its_control() -> None:
    control = {"method": "supervised", "status": "running", "reason": None, "job_id": "ftjob-2"}
    text = "\n".join(shown(snapshot(status="queued", control=control), terminal=True))
    assert "queued, waits for its control (running)" in text
    ended = control | {"status": "succeeded"}
    assert "control" not in "\n".join(shown(snapshot(status="queued", control=ended), terminal=True))


def test_no_held_out_row_without_validation() -> None:
    assert not any("held-out" in line for line in shown(snapshot(validation_file=None), terminal=True))


def test_markup_in_messages_is_text() -> None:
    assert any("[bold]x[/]" in line for line in shown(snapshot({"message": "[bold]x[/]"}), terminal=True))


def test_plain_lines_without_a_terminal() -> None:
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


def test_sparkline_clips_and_keeps_the_latest() -> None:
    assert sparkline([-1.0, 0.0, 0.5, 1.0, 2.0]) == "▁▁▅██"
    assert sparkline([1.0] + [0.0] * 24) == "▁" * 24


def test_status_shows_the_phase_before_and_after_training() -> None:
    phases = ("loading_model", "evaluating_base_model", "training", "saving_model")
    started = [
        snapshot(progress={"step": 0, "total_steps": None, "eta_seconds": None, "phase": phase}) for phase in phases
    ]
    assert shown(*started, terminal=False) == [
        "ftjob-1: running, loading model",
        "ftjob-1: running, evaluating base model",
        "ftjob-1: running",
        "ftjob-1: running, saving model",
    ]
