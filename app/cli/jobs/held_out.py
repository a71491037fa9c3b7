"""How commands show held-out results: values with their 95 % intervals, and the verdict on the trained model."""

from typing import Any, Final

from app.cli.ui.formatting import number
from app.client import Json
from app.core.plurals import plural

_SHARES: Final = ("eval/accuracy", "eval/rewards/accuracies", "eval/clipped_ratio")
WORSE: Final = "The trained model is worse than the one that training started from."


def status(job: Json) -> str:
    """Return the status of a job with the verdict on its model: `succeeded, WORSE`."""
    verdict = verdict_of(job)
    return str(job["status"]) if verdict is None else f"{job['status']}, {verdict}"


def verdict_of(job: Json) -> str | None:
    """Return the verdict as text: `improved`, `no change` or `WORSE`; None without one."""
    verdict = job.get("verdict")  # servers of earlier versions send none
    return None if verdict is None else {"worse": "WORSE", "no_change": "no change"}.get(verdict, verdict)


def reason(job: Json) -> str | None:
    """Return the sentence that explains the verdict, or why there is none; None before training is finished."""
    return (job.get("comparison") or {}).get("reason")


def control(job: Json) -> str | None:
    """Return the comparison with the control in words, or what the control does until then; None without a control."""
    found = job.get("control")  # servers of earlier versions send none
    if found is None:
        return None
    if found["reason"] is not None:
        return str(found["reason"])
    name = "deleted" if found["job_id"] is None else f"{found['job_id']}, {found['status'].replace('_', ' ')}"
    return f"{found['method']} ({name})"


def result(job: Json, when: str) -> dict[str, Any]:
    """Return the result `before` or `after` training; empty without one."""
    return (job["evaluation"] or {}).get(when) or {}


def value(part: dict[str, Any], metric: str) -> str | None:
    """Format a value of a result with its interval: `70.0% (56.2% to 80.9%)`; None if it was not measured."""
    measured = part.get("values", {}).get(metric)
    if measured is None:
        return None
    show = "{:.1%}".format if metric in _SHARES or metric.startswith("eval/pass@") else number
    interval = part.get("intervals", {}).get(metric)
    return show(measured) if interval is None else f"{show(measured)} ({' to '.join(map(show, interval))})"


def before_and_after(job: Json, metric: str) -> str | None:
    """Format both results of a metric in one line; None if neither was measured."""
    parts = [result(job, when) for when in ("before", "after")]
    shown = [text for part in parts if (text := value(part, metric)) is not None]
    if not shown:
        return None
    rows = parts[-1].get("rows") or parts[0].get("rows")
    return " -> ".join(shown) + (f", 95 % intervals on {plural(rows, 'row')}" if rows else "")
