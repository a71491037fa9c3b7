"""Report of a demo: results on held-out problems before and after training, as a table and as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.jobs import held_out
from app.cli.ui.formatting import clock, one_line
from app.cli.ui.hints import suggest
from app.client import Json

SHOWN_SAMPLES: Final = 4
TABLE_COLUMNS: Final = 78
SCOPE: Final = (
    "Shown: one job learns from graded answers; the problems above took no part.",
    "Not shown: which method is best. For a comparison see",
)
_MEASURES: Final = (("accuracy", "eval/accuracy"), ("reward", "eval/reward"), ("mean_tokens", "eval/mean_length"))


@dataclass(frozen=True)
class DemoReport:
    """Results of a succeeded demo job."""

    job: Json
    seed: int
    seconds: float
    """Seconds from the start of the command to the end of the job."""
    adapter: Path

    def to_json(self) -> dict[str, Any]:
        """Return the content of `--json FILE`; accuracies are shares from 0 to 1."""
        return {
            "before": self.measures("before"),
            "after": self.measures("after"),
            "intervals": {when: self.intervals(when) for when in ("before", "after")},
            "rows": held_out.result(self.job, "after").get("rows"),
            "verdict": self.job["verdict"],
            "comparison": self.job["comparison"],
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "job_id": self.job["id"],
            "fine_tuned_model": self.job["fine_tuned_model"],
            "adapter": str(self.adapter),
            "samples": self.samples(),
        }

    def measures(self, when: str) -> dict[str, float | None]:
        """Return accuracy, mean reward and mean response length `before` or `after` training."""
        values = held_out.result(self.job, when).get("values", {})
        return {name: values.get(key) for name, key in _MEASURES}

    def intervals(self, when: str) -> dict[str, list[float] | None]:
        """Return the 95 % intervals of the same measures."""
        intervals = held_out.result(self.job, when).get("intervals", {})
        return {name: intervals.get(key) for name, key in _MEASURES}

    def samples(self) -> list[dict[str, Any]]:
        """Return the held-out problems that were answered both before and after training."""
        evaluation = self.job["evaluation"] or {}
        before, after = (evaluation.get(when, {}).get("samples", []) for when in ("before", "after"))
        return [
            {
                "prompt": old["prompt"],
                "reference": old["reference"],
                "before": {"response": old["response"], "reward": old["reward"]},
                "after": {"response": new["response"], "reward": new["reward"]},
            }
            for old, new in zip(before, after, strict=False)
            if old["prompt"] == new["prompt"]
        ]

    def best_question(self) -> tuple[str, str]:
        """Return the held-out question that training improved most, and its reference answer."""
        best = max(self.samples(), key=_gain)
        return best["prompt"], str(best["reference"])

    def __rich__(self) -> RenderableType:
        style = "bold red" if self.job["verdict"] == "worse" else "bold green"
        return Group(self._table(), Text(self._basis()), Text(self._verdict(), style), Text(), *self._answers())

    def _table(self) -> Table:
        parts = [(self.measures(when), self.intervals(when)) for when in ("before", "after")]
        table = Table(title="Held-out problems, never trained on", title_justify="left", title_style="bold")
        table.add_column("")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right", style="bold green")
        shown = (
            ("solved", "accuracy", ".0%"),
            ("mean reward", "reward", ".2f"),
            ("tokens per answer", "mean_tokens", ".1f"),
        )
        for label, name, form in shown:
            table.add_row(label, *(_format(values[name], form, intervals[name]) for values, intervals in parts))
        return table

    def _verdict(self) -> str:
        """Return the verdict in a sentence, with the 95 % interval of the change."""
        verdict, found = held_out.verdict_of(self.job), self.job["comparison"]
        if verdict is None or found is None:
            return held_out.reason(self.job) or ""
        change = f"{found['difference']:+.2f} (95 % interval {found['low']:+.2f} to {found['high']:+.2f})"
        return f"Verdict: {verdict}, mean reward {change}"

    def _basis(self) -> str:
        """Say which problems the table is about."""
        evaluation = self.job["evaluation"] or {}
        rows, others = held_out.result(self.job, "after").get("rows"), evaluation.get("selection_rows")
        chosen = f"; {others} others chose the adapter" if others else ""
        return f"{rows} problems, 95 % intervals in brackets{chosen}." if rows else ""

    def _answers(self) -> list[RenderableType]:
        parts: list[RenderableType] = []
        # Problems whose reward improved most come first: they show best what training changed.
        ranked = sorted(self.samples(), key=_gain, reverse=True)
        for sample in ranked[:SHOWN_SAMPLES]:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=8, style="dim", no_wrap=True)
            grid.add_column(width=TABLE_COLUMNS - 12, overflow="fold")
            grid.add_row("", f"[bold]{escape(sample['prompt'])}[/bold]")
            for when in ("before", "after"):
                answer = sample[when]
                mark = "[green]✓[/green]" if (answer["reward"] or 0) >= 1 else "[red]✗[/red]"
                grid.add_row(when, f"{mark} {escape(one_line(answer['response']))}")
            parts += [grid, Text()]
        return parts


def print_report(report: DemoReport, base_url: str, console: Console) -> None:
    """Print the report."""
    job = report.job
    console.print()
    console.print(report, soft_wrap=False)
    console.print(f"Trained in {clock(report.seconds)}, including start-up, with seed {report.seed}.\n")
    for line in SCOPE:
        console.print(line)
    console.print(f"{base_url.removesuffix('v1')}docs/evidence.html\n", soft_wrap=True)
    rows = (
        ("model", job["fine_tuned_model"]),
        ("adapter", str(report.adapter)),
        ("API", base_url),
        ("groups", suggest(f"jobs groups {job['id']} --step 1")),
    )
    for label, value in rows:  # not a table: it would break a long path over two lines, which prevents copying
        console.print(f"[dim]{label:7}[/dim]  {escape(value)}", soft_wrap=True)


def _gain(sample: dict[str, Any]) -> float:
    return float((sample["after"]["reward"] or 0) - (sample["before"]["reward"] or 0))


def _format(value: float | None, form: str, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    shown = format(value, form)
    return shown if interval is None else f"{shown} ({' to '.join(format(end, form) for end in interval)})"
