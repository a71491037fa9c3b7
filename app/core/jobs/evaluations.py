"""Held-out evaluations of a job: the results on the rows that report, and the history on the rows that select."""

from sqlalchemy.orm import Session

from app.core.jobs import leases
from app.core.jobs.events import Event, clean, shown
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Job
from app.core.plurals import plural
from app.core.spec.reports import Evaluated


def store(session: Session, claim: Claim, report: Evaluated) -> None:
    """Store an evaluation with its job. Raises `LostLease` if the attempt no longer owns the job."""
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    result = clean(report.model_dump(mode="json", exclude={"kind", "best", "is_result"}))
    answers, rows, selection = (result.pop(name) for name in ("samples", "rows", "selection_lines"))
    evaluation = dict(job.evaluation or {})
    if not report.is_result:
        history = [earlier for earlier in evaluation.get("history", []) if earlier["step"] < report.step]
        leases.update_owned(session, claim, evaluation=evaluation | {"history": [*history, result]})
        return
    part = "before" if report.step == 0 else "after"
    result |= {"intervals": clean(_intervals(report)), "rows": len(report.rows.lines)}
    leases.update_owned(
        session,
        claim,
        evaluation=evaluation | {part: result, "selection_rows": len(selection)},
        evaluation_samples=(job.evaluation_samples or {}) | {part: answers},
        evaluation_rows=(job.evaluation_rows or {}) | {part: rows, "selection": selection},
    )


def event_of(report: Evaluated, event_id: str) -> Event:
    """Return the event of an evaluation."""
    summary = shown(report.values)
    data: dict[str, object] = {"step": report.step}
    if not report.is_result:
        text = f"Evaluated at step {report.step}" + (f": {summary}" if summary else "")
        return Event(text, data=data | {"values": report.values}, id=event_id)
    count = len(report.rows.lines)
    when = "before training" if report.step == 0 else f"of the adapter after step {report.step}"
    data |= {"result": report.values, "intervals": _intervals(report), "rows": count}
    return Event(f"Result {when} on {plural(count, 'held-out row')}: {summary}", data=data, id=event_id)


def _intervals(report: Evaluated) -> dict[str, list[float]]:
    return {name: list(interval) for name, interval in report.rows.intervals().items()}
