"""Waits of jobs for a dependency (teacher, judge, store, disk, download), and their limits."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from sqlalchemy import func, null, select
from sqlalchemy.orm import Session

from app.core.jobs.attempts import backoff, close_attempt, fail_running
from app.core.jobs.events import Event
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job
from app.core.jobs.transitions import transition
from app.core.spec.rows import shown_lines

MAX_WAIT: Final = timedelta(days=7)
"""A job fails once a dependency has kept it from a new step for this time. Time in the queue does not count."""
MAX_ROW_FAILURES: Final = 3
"""A job fails once a dependency has failed on the same row in this number of attempts without a new step."""


def wait_or_give_up(session: Session, job: Job, reason: str, rows: Collection[int] = ()) -> None:
    """End the running attempt of `job`, whose row the caller holds, because a dependency of it failed.

    The job is queued again after a backoff that grows with its attempts. Its crash budget is not charged. It fails
    instead after `MAX_WAIT` or `MAX_ROW_FAILURES`. `rows` are the lines of the training file on which the dependency
    fails although it works for other rows; none if it is unavailable. Raises `LostLease`.
    """
    now = session.scalars(select(func.now())).one()
    since = job.waiting_since or now
    failures = dict(job.failing_rows or {})
    for row in rows:
        failures[str(row)] = failures.get(str(row), 0) + 1
    if rows:
        reason = f"{reason} ({shown_lines(rows)})"
    close_attempt(session, job.id, job.attempt, AttemptOutcome.dependency_down, reason)
    if stuck := [int(row) for row, count in failures.items() if count >= MAX_ROW_FAILURES]:
        advice = (
            f"{shown_lines(stuck).capitalize()} of the training file failed in {MAX_ROW_FAILURES} attempts, while "
            "other rows worked. Change or remove these rows, or fix the server."
        )
        fail_running(session, job, "rows_failed", f"{reason}. {advice}", param="training_file")
    elif now - since >= MAX_WAIT:
        advice = f"The job has waited for {MAX_WAIT.days} days without a new step. Fix the cause, then create it again."
        fail_running(session, job, "dependency_down", f"{reason}. {advice}")
    else:
        wait = backoff(job.attempt)
        transition(
            session,
            job.id,
            {JobStatus.running},
            JobStatus.queued,
            Event(f"{reason}. Retrying in {wait.total_seconds():.0f} s", level="warn"),
            eligible_at=now + wait,
            waiting_since=since,
            failing_rows=failures or null(),
        )
