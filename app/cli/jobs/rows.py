"""Formats how many rows of its files a job uses."""

from typing import Final

from app.cli.ui.console import note, warn
from app.client import Json

LABELS: Final = {"rows": "training rows", "held_out_rows": "held-out rows", "test_rows": "test rows"}


def row_use(job: Json, name: str) -> str | None:
    """Format `rows` or `held_out_rows` of a job or a validation; None while they are unknown.

    For example `8 of 10 used (2 template_refused)`.
    """
    use = job.get(name)  # servers of earlier versions send no `test_rows`
    if use is None:
        return None
    lost = ", ".join(f"{count:,} {reason}" for reason, count in use["dropped"].items())
    total = use["used"] + sum(use["dropped"].values())
    return f"{use['used']:,} of {total:,} used ({lost})" if lost else f"all {total:,} used"


def demonstrations(job: Json) -> str | None:
    """Format the grades of a job that trains only the demonstrations that pass; None for other jobs."""
    grades = job.get("demonstrations")  # servers of earlier versions send none
    if grades is None:
        return None
    failed = [
        f"{grades[name]:,} {word}" for name, word in (("failed", "failed"), ("errors", "not graded")) if grades[name]
    ]
    return f"{grades['passed']:,} of {grades['total']:,} pass the grader" + (
        f" ({', '.join(failed)})" if failed else ""
    )


def note_rows(job: Json) -> None:
    """Print how many rows a job or a validation uses: as a warning if any are lost."""
    for name, label in LABELS.items():
        if (text := row_use(job, name)) is not None:
            show = warn if job[name]["dropped"] else note
            show(f"{label.capitalize()}: {text}.")
