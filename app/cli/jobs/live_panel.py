"""Shows a running job: a live panel on a terminal, plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.cli.jobs.watcher import Snapshot
from app.cli.ui.console import err
from app.cli.ui.formatting import clock, time_of_day
from app.client import Json
from app.core.jobs.state_machine import TERMINAL

REWARDS: Final = {
    "expert": "gft/expert/reward",
    "teacher": "gft/teacher/reward",
    "self": "gft/self/reward",
    "margin": "rewards/margins",
}
"""Label to metric. The margin is that of a dpo job's pairs."""
HELD_OUT: Final = {"eval/accuracy": "problems solved", "eval/rewards/accuracies": "pairs won"}
"""Share of held-out rows to its meaning."""
SMOOTHED_STEPS: Final = 5
"""Rewards are averaged over this many steps, because one step has only a few answers."""
PLAIN_EVERY_STEPS: Final = 5
"""Without a terminal, one line per this many steps."""
SPARK_POINTS: Final = 24
PANEL_COLUMNS: Final = 78
NOT_METRICS: Final = ("step", "total_steps")
"""Fields of a `metrics` event that are not metrics."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {"running": "green", "succeeded": "green", "failed": "red", "cancelled": "yellow"}


@dataclass
class LivePanel:
    """Panel of one job, built up from its snapshots."""

    title: str
    started: float = field(default_factory=time.monotonic)
    job: Json = field(default_factory=dict)
    rewards: dict[str, deque[float]] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)
    """Step to the share of held-out problems solved, or of pairs won."""
    accuracy_meaning: str = "problems solved"
    values: dict[str, float] = field(default_factory=dict)
    """Metrics of the latest step."""
    latest_message: str = ""
    eta_at: float | None = None
    """Expected end, in monotonic time."""

    def update(self, snapshot: Snapshot) -> None:
        """Apply a snapshot and its events."""
        self.job = snapshot.job
        eta = snapshot.job["progress"]["eta_seconds"]
        self.eta_at = None if eta is None else time.monotonic() + eta
        for event in snapshot.events:
            self._apply(event)

    def _apply(self, event: Json) -> None:
        data = event["data"] or {}
        values = data.get("values", data)
        if isinstance(values, dict) and "step" in data and (share := _held_out_share(values)) is not None:
            self.accuracy[data["step"]], self.accuracy_meaning = share
        if event["type"] == "message":
            # Skip evaluations and checkpoints: they are frequent, and other rows of the panel show them.
            self.latest_message = self.latest_message if "step" in data else event["message"]
            return
        self.values = {
            name: value for name, value in data.items() if isinstance(value, int | float) and name not in NOT_METRICS
        }
        for label, name in REWARDS.items():
            reward = data.get(name)
            if reward is not None:
                self.rewards.setdefault(label, deque(maxlen=SMOOTHED_STEPS)).append(reward)

    @property
    def step(self) -> int:
        return int(self.job["progress"]["step"]) if self.job else 0

    @property
    def total_steps(self) -> int | None:
        total = self.job["progress"]["total_steps"] if self.job else None
        return None if total is None else int(total)

    @property
    def status(self) -> str:
        """The job's status as text, with its position in the queue, or with what it does before and after its steps."""
        if not self.job:
            return "starting"
        position, phase = self.job.get("queue_position"), self.job["progress"].get("phase")
        suffix = f", number {position} in the queue" if position and position > 1 else ""
        control = (self.job.get("control") or {}).get("status")
        if self.job["status"] == "queued" and control is not None and control not in TERMINAL:
            suffix = f", waits for its control ({control.replace('_', ' ')})"
        if phase not in (None, "training"):  # steps show that a job trains
            suffix = f", {phase.replace('_', ' ')}"
        return str(self.job["status"]).replace("_", " ") + suffix

    def mean_rewards(self) -> Iterator[tuple[str, float]]:
        """Yield the smoothed reward of each source that has one, and the margin of pairs."""
        for label in REWARDS:
            if values := self.rewards.get(label):
                yield label, sum(values) / len(values)

    def __rich__(self) -> RenderableType:
        rows = Table.grid(padding=(0, 2), expand=True)
        rows.add_column(style="dim", min_width=8, no_wrap=True)
        rows.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        rows.add_row("status", Text(self.status, style=_COLOURS.get(self.job.get("status", ""), "cyan")))
        rewards = "   ".join(f"[dim]{source}[/dim] {value:.2f}" for source, value in self.mean_rewards())
        rows.add_row("reward", rewards or "[dim]available after the first step[/dim]")
        if self.job.get("validation_file"):
            rows.add_row("held-out", self._held_out())
        rows.add_row("latest", Text(self.latest_message or "-"))
        name = self.job.get("id", "")
        title = f"[bold]{escape(self.title)}[/bold]" + (f"  [dim]{escape(name)}[/dim]" if name != self.title else "")
        panel = Panel(
            Group(self._bar(), Text(), rows), title=title, title_align="left", padding=(1, 2), border_style="dim"
        )
        panel.width = PANEL_COLUMNS
        return panel

    def _bar(self) -> RenderableType:
        total = self.total_steps
        left = "" if self.eta_at is None else f"{clock(max(0.0, self.eta_at - time.monotonic()))} left"
        if self.job.get("status") == "succeeded":
            left = "done"
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        line.add_column(no_wrap=True, justify="right", style="dim")
        line.add_column(no_wrap=True, justify="right", min_width=10)
        # A total of None would make the bar pulse; an empty bar is calmer while the job waits.
        bar = ProgressBar(total=total or 1, completed=self.step, complete_style="green", finished_style="green")
        count = f"step {self.step}/{total}" if total else "waiting"
        line.add_row(bar, count, clock(time.monotonic() - self.started), left)
        return line

    def _held_out(self) -> str:
        points = [value for _, value in sorted(self.accuracy.items())]
        if not points:
            return "[dim]not measured yet[/dim]"
        change = f"{points[0]:.0%}" if len(points) == 1 else f"{points[0]:.0%} → [bold]{points[-1]:.0%}[/bold]"
        return f"[green]{sparkline(points)}[/green]  {change} {self.accuracy_meaning.rpartition(' ')[2]}"


def _held_out_share(values: Json) -> tuple[float, str] | None:
    """Return the share of held-out rows that an evaluation reports, and its meaning."""
    return next(((values[name], text) for name, text in HELD_OUT.items() if values.get(name) is not None), None)


def sparkline(points: list[float]) -> str:
    """Draw the latest `SPARK_POINTS` shares, from 0 to 1, as bars."""
    return "".join(_BARS[round(min(max(point, 0.0), 1.0) * (len(_BARS) - 1))] for point in points[-SPARK_POINTS:])


def event_line(event: Json) -> str:
    """Format an event for a log: local time, level unless it is `info`, message."""
    level = "" if event["level"] == "info" else f"{event['level'].upper()} "
    return f"{time_of_day(event['created_at'])}  {level}{event['message']}"


def follow(snapshots: Iterable[Snapshot], panel: LivePanel, *, events: bool = False, console: Console = err) -> Json:
    """Show a job until the snapshots end; returns its last state. With `events`, print every event instead."""
    with _display(panel, console, events) as print_lines:
        for snapshot in snapshots:
            panel.update(snapshot)
            print_lines(snapshot)
    return panel.job


class _PlainLines:
    """Prints plain lines: every status change, every fifth step, every evaluation and every warning."""

    def __init__(self, panel: LivePanel, console: Console, *, all_events: bool) -> None:
        self._panel = panel
        self._console = console
        self._all_events = all_events
        self._status = ""

    def __call__(self, snapshot: Snapshot) -> None:
        if self._all_events:
            for event in snapshot.events:
                self._print(event_line(event))
            return
        for event in snapshot.events:
            if line := self._line(event):
                self._print(line)
        if self._panel.status != self._status:
            self._status = self._panel.status
            self._print(f"{snapshot.job['id']}: {self._status}")

    def _print(self, line: str) -> None:
        self._console.print(escape(line))

    def _line(self, event: Json) -> str:
        data: dict[str, Any] = event["data"] or {}
        values = data.get("values", data)
        lines = []
        if event["type"] == "metrics" and data["step"] % PLAIN_EVERY_STEPS == 0:
            rewards = (f"{label} {data[name]:.2f}" for label, name in REWARDS.items() if data.get(name) is not None)
            eta = self._panel.job["progress"]["eta_seconds"]
            left = "" if eta is None else f", {clock(eta)} left"
            lines.append(f"step {data['step']}/{data['total_steps']}: reward {', '.join(rewards)}{left}")
        if event["type"] == "message" and "step" in data and (share := _held_out_share(values)) is not None:
            lines.append(f"held-out {share[1]} at step {data['step']}: {share[0]:.0%}")
        if event["level"] != "info":
            lines.append(f"{event['level']}: {event['message']}")
        return "\n".join(lines)


def _print_nothing(_snapshot: Snapshot) -> None:
    """Used with a live panel, which redraws itself."""


@contextmanager
def _display(panel: LivePanel, console: Console, events: bool) -> Iterator[Callable[[Snapshot], None]]:
    if events or not console.is_terminal or console.is_dumb_terminal:
        yield _PlainLines(panel, console, all_events=events)
        return
    with Live(panel, console=console, refresh_per_second=4):
        yield _print_nothing
