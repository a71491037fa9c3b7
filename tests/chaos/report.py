"""The figures of the last chaos run as a table in docs/reliability.md; as a program it writes that again."""

import json
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
RESULTS: Final = REPOSITORY / "bench" / "results" / "reliability.json"
PAGE: Final = REPOSITORY / "docs" / "reliability.md"
BEGIN: Final = "<!-- figures: written by make chaos -->"
END: Final = "<!-- end of figures -->"
WHAT: Final = {
    1: "the trainer killed with -9 at random steps of real runs",
    2: "the worker killed with -9",
    4: "the worker drained with SIGTERM",
    5: "the broker flushed, messages sent ten-fold and lost",
    6: "the broker away",
    7: "Postgres killed with -9 while jobs run and clients ask",
    12: "the API killed with -9 in the middle of uploads",
    15: "many clients that poll and stream",
    16: "a long queue",
    18: "random histories of the job machine",
    20: "running jobs cancelled at random moments",
}
"""Row of the list -> what was done."""


def table(found: dict[str, Any]) -> str:
    """What stands between the markers."""
    head = f"On {found['machine']}."
    lines = [head, "", "| row | what was done | figures |", "|---|---|---|"]
    for row, figures in found["rows"].items():
        told = ", ".join(f"{name} {_shown(value)}" for name, value in figures.items() if name != "seconds")
        lines.append(f"| {row} | {WHAT[int(row)]} | in {figures['seconds']} s: {told} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(text: str) -> str:
    """The page with the table of the last run."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(json.loads(RESULTS.read_text(encoding='utf-8')))}\n{END}{after}"


def update() -> None:
    """Writes it."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    update()
