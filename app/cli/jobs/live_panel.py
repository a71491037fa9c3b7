"""How a running job looks: a live panel on a terminal, plain lines without one."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from app.client import Json

SOURCES: Final = ("expert", "teacher", "self")
SMOOTHED_STEPS: Final = 5
"""Rewards are shown as the mean of so many steps: those of one step are a handful of answers."""
PLAIN_EVERY_STEPS: Final = 5
SPARK_POINTS: Final = 24
PANEL_COLUMNS: Final = 78
STEPS: Final = ("step", "total_steps")
"""Beside the metrics of a step."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {"running": "green", "succeeded": "green", "failed": "red", "cancelled": "yellow"}


@dataclass
class JobView:
    """What is known about a job from its snapshots."""

    title: str
    began: float = field(default_factory=time.monotonic)
    job: Json = field(default_factory=dict)
    rewards: dict[str, deque[float]] = field(default_factory=dict)
    accuracy: dict[int, float] = field(default_factory=dict)
    """Step -> share of held-out problems solved."""
    values: dict[str, float] = field(default_factory=dict)
    """Metrics of the latest step."""
    latest: str = ""
    eta_at: float | None = None
    """Monotonic time of the expected end."""

    def take(self, snapshot: Snapshot) -> None:
        """Brings the view up to date."""
        self.job = snapshot.job
        eta = snapshot.job["progress"]["eta_seconds"]
        self.eta_at = None if eta is None else time.monotonic() + eta
        for event in snapshot.events:
            self._take_event(event)

    def _take_event(self, event: Json) -> None:
        data = event["data"] or {}
        values = data.get("values", data)
        if isinstance(values, dict) and values.get("eval/accuracy") is not None and "step" in data:
            self.accuracy[data["step"]] = values["eval/accuracy"]
        if event["type"] == "message":
            # Evaluations and checkpoints come often, and the panel shows what they say elsewhere.
            self.latest = self.latest if "step" in data else event["message"]
            return
        self.values = {
            name: value for name, value in data.items() if isinstance(value, int | float) and name not in STEPS
        }
        for source in SOURCES:
            reward = data.get(f"gft/{source}/reward")
            if reward is not None:
                self.rewards.setdefault(source, deque(maxlen=SMOOTHED_STEPS)).append(reward)

    @property
    def step(self) -> int:
        return int(self.job["progress"]["step"]) if self.job else 0

    @property
    def total_steps(self) -> int | None:
        total = self.job["progress"]["total_steps"] if self.job else None
        return None if total is None else int(total)

    @property
    def status(self) -> str:
        """The job's state in words, with its place in the queue."""
        if not self.job:
            return "starting"
        position = self.job.get("queue_position")
        place = f", number {position} in the queue" if position and position > 1 else ""
        return str(self.job["status"]).replace("_", " ") + place

    def mean_rewards(self) -> Iterator[tuple[str, float]]:
        """Recent reward by source, for the sources that have one."""
        for source in SOURCES:
            if values := self.rewards.get(source):
                yield source, sum(values) / len(values)

    def __rich__(self) -> RenderableType:
        rows = Table.grid(padding=(0, 2), expand=True)
        rows.add_column(style="dim", min_width=8, no_wrap=True)
        rows.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        rows.add_row("status", Text(self.status, style=_COLOURS.get(self.job.get("status", ""), "cyan")))
        rewards = "   ".join(f"[dim]{source}[/dim] {value:.2f}" for source, value in self.mean_rewards())
        rows.add_row("reward", rewards or "[dim]after the first step[/dim]")
        if self.job.get("validation_file"):
            rows.add_row("held-out", self._held_out())
        rows.add_row("latest", Text(self.latest or "-"))
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
        # A total of None would pulse; a bar at 0 says "not begun" more calmly.
        bar = ProgressBar(total=total or 1, completed=self.step, complete_style="green", finished_style="green")
        count = f"step {self.step}/{total}" if total else "waiting"
        line.add_row(bar, count, clock(time.monotonic() - self.began), left)
        return line

    def _held_out(self) -> str:
        points = [value for _, value in sorted(self.accuracy.items())]
        if not points:
            return "[dim]measured before training[/dim]"
        change = f"{points[0]:.0%}" if len(points) == 1 else f"{points[0]:.0%} → [bold]{points[-1]:.0%}[/bold]"
        return f"[green]{sparkline(points)}[/green]  {change} solved"


def sparkline(points: list[float]) -> str:
    """Shares from 0 to 1 as bars, the latest `SPARK_POINTS` of them."""
    return "".join(_BARS[round(min(max(point, 0.0), 1.0) * (len(_BARS) - 1))] for point in points[-SPARK_POINTS:])


def clock(seconds: float) -> str:
    """`4:07` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def event_line(event: Json) -> str:
    """An event for a log: local time, level unless it is info, message."""
    moment = datetime.fromtimestamp(event["created_at"], UTC).astimezone().strftime("%H:%M:%S")
    level = "" if event["level"] == "info" else f"{event['level'].upper()} "
    return f"{moment}  {level}{event['message']}"


def follow(snapshots: Iterable[Snapshot], view: JobView, *, events: bool = False, console: Console = err) -> Json:
    """Shows a job until the snapshots end; returns it in its last state. `events` prints every event instead."""
    with _display(view, console, events) as show:
        for snapshot in snapshots:
            view.take(snapshot)
            show.take(snapshot)
    return view.job


class _Lines:
    """Plain lines: changes of the state, every fifth step, every evaluation, every warning."""

    def __init__(self, view: JobView, console: Console, *, all_events: bool) -> None:
        self._view = view
        self._console = console
        self._all = all_events
        self._status = ""

    def take(self, snapshot: Snapshot) -> None:
        if self._all:
            for event in snapshot.events:
                self._tell(event_line(event))
            return
        for event in snapshot.events:
            if line := self._line(event):
                self._tell(line)
        if self._view.status != self._status:
            self._status = self._view.status
            self._tell(f"{snapshot.job['id']}: {self._status}")

    def _tell(self, line: str) -> None:
        self._console.print(escape(line))

    def _line(self, event: Json) -> str:
        data: dict[str, Any] = event["data"] or {}
        values = data.get("values", data)
        lines = []
        if event["type"] == "metrics" and data["step"] % PLAIN_EVERY_STEPS == 0:
            rewards = (
                f"{source} {data[f'gft/{source}/reward']:.2f}"
                for source in SOURCES
                if data.get(f"gft/{source}/reward") is not None
            )
            eta = self._view.job["progress"]["eta_seconds"]
            left = "" if eta is None else f", {clock(eta)} left"
            lines.append(f"step {data['step']}/{data['total_steps']}: reward {', '.join(rewards)}{left}")
        if event["type"] == "message" and "eval/accuracy" in values:
            solved = values["eval/accuracy"] or 0.0
            lines.append(f"held-out problems solved at step {data['step']}: {solved:.0%}")
        if event["level"] != "info":
            lines.append(f"{event['level']}: {event['message']}")
        return "\n".join(lines)


class _Silent:
    """Beside a live panel, which draws itself from the view."""

    def take(self, snapshot: Snapshot) -> None:
        """Nothing to add."""


@contextmanager
def _display(view: JobView, console: Console, events: bool) -> Iterator[_Lines | _Silent]:
    if events or not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(view, console, all_events=events)
        return
    with Live(view, console=console, refresh_per_second=4):
        yield _Silent()
