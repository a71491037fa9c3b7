"""Stores the figures of the last soak and renders them in docs/reliability.md."""

import json
from collections.abc import Mapping
from typing import Any, Final

from tests.chaos.report import PAGE, REPOSITORY, between, machine
from tests.soak.growth import Snapshot
from tests.soak.load import Ledger

RESULTS: Final = REPOSITORY / "bench" / "results" / "soak.json"
BEGIN: Final = "<!-- figures: written by make soak -->"


def write(seconds: int, ledger: Ledger, kills: Mapping[str, int], baseline: Snapshot, end: Snapshot) -> None:
    """Store the figures of a soak that has passed and update the page."""
    results = {
        "machine": machine(),
        "seconds": seconds,
        "kills": dict(sorted(kills.items())),
        "load": dict(sorted(ledger.counts.items())),
        "responses": {str(status): count for status, count in sorted(ledger.statuses.items())},
        "requests cut by a kill": ledger.cut,
        "figures": {
            process: {name: [value, end[process][name]] for name, value in figures.items()}
            for process, figures in baseline.items()
        },
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """Return the page `text` with the figures of the last soak that passed, if one has."""
    if not RESULTS.exists():
        return text
    return between(text, BEGIN, table(json.loads(RESULTS.read_text(encoding="utf-8"))))


def table(results: dict[str, Any]) -> str:
    """Return the text between the markers."""
    lines = [
        f"On {results['machine']}, {results['seconds']} s. Accepted: {_listed(results['load'])}. "
        f"Kills: {_listed(results['kills'])}. Responses: {_listed(results['responses'])}; "
        f"requests cut by a kill: {results['requests cut by a kill']:,}.",
        "",
        "| process | after the warm-up → at the end |",
        "|---|---|",
    ]
    for process, figures in results["figures"].items():
        listed = ", ".join(f"{name}: {before:g} → {after:g}" for name, (before, after) in figures.items())
        lines.append(f"| {process} | {listed} |")
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
