"""Renders the figures of the last chaos run as a table in docs/reliability.md; run as a program it updates the page."""

import json
import os
import platform
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
RESULTS: Final = REPOSITORY / "bench" / "results" / "reliability.json"
PAGE: Final = REPOSITORY / "docs" / "reliability.md"
BEGIN: Final = "<!-- figures: written by make chaos -->"
END: Final = "<!-- end of figures -->"
FAULTS: Final = {
    1: "trainer killed with -9 at random steps of real runs",
    2: "worker killed with -9",
    4: "worker drained with SIGTERM",
    5: "broker flushed, messages sent ten times or lost",
    6: "broker down",
    7: "Postgres killed with -9 while jobs run and clients send requests",
    12: "API killed with -9 during uploads",
    15: "many polling and streaming clients",
    16: "long queue",
    18: "random histories of the job machine",
    20: "running jobs cancelled at random moments",
}
"""Row of the list -> the fault that the test causes."""


def table(results: dict[str, Any]) -> str:
    """Return the text between the markers."""
    head = f"On {results['machine']}."
    lines = [head, "", "| row | fault | figures |", "|---|---|---|"]
    for row, figures in results["rows"].items():
        listed = ", ".join(f"{name}: {_formatted(value)}" for name, value in figures.items() if name != "seconds")
        lines.append(f"| {row} | {FAULTS[int(row)]} | {figures['seconds']} s; {listed} |")
    return "\n".join(lines)


def _formatted(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(text: str) -> str:
    """Return the page `text` with the figures of the last run."""
    return between(text, BEGIN, table(json.loads(RESULTS.read_text(encoding="utf-8"))))


def between(text: str, begin: str, figures: str) -> str:
    """Return `text` with other figures between the marker `begin` and the next end of figures."""
    before, _, rest = text.partition(begin)
    after = rest.partition(END)[2]
    return f"{before}{begin}\n{figures}\n{END}{after}"


def machine() -> str:
    """Describe the machine that the figures come from."""
    return f"{os.cpu_count()} threads, {_processor()}, Python {platform.python_version()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def update() -> None:
    """Write the figures of the last run to the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    update()
