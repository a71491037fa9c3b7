"""The logs of trainers, kept with their jobs: the runner appends, clients read pages and follow.

A log is bounded: of a longer one the beginning and the end are kept. Positions count the characters that were written,
including those that are no longer stored, so that a position stays valid while the middle is removed.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from app.core.errors import NotFound
from app.core.jobs import leases
from app.core.jobs.events import clean
from app.core.jobs.leases import Claim
from app.core.jobs.tables import JobAttempt, LogPart

KEEP_FIRST: Final = 256 * 1024
"""Characters at the beginning of an attempt's log that are kept."""
KEEP_LAST: Final = 768 * 1024
"""Characters at its end that are kept."""
PART: Final = 16 * 1024
"""Characters of one row. New text goes into the last row until that is full, so that short writes make few rows."""
MAX_PAGE: Final = KEEP_FIRST + KEEP_LAST


@dataclass(frozen=True)
class LogPage:
    """A piece of an attempt's log."""

    attempt: int | None
    """None while the job has no attempt."""
    latest_attempt: int | None
    start: int
    """Position of the first character of `text`."""
    text: str
    omitted: int
    """Number of characters between the requested position and `start` that are no longer stored."""
    has_more: bool
    """Whether more text is stored."""
    has_ended: bool
    """Whether the attempt has ended, so that nothing will be added."""

    @property
    def next(self) -> int:
        """The position to read from next."""
        return self.start + len(self.text)


def append(session: Session, claim: Claim, start: int, text: str) -> None:
    """Add `text`, which begins at position `start`, to the log of an attempt. Appending it again changes nothing.

    Raises `LostLease` once the attempt no longer owns the job.
    """
    leases.hold(session, claim)
    own = _of_attempt(claim.job_id, claim.attempt)
    last = session.scalar(select(LogPart).where(*own).order_by(LogPart.start.desc()).limit(1))
    if last is not None and start < last.stop:
        text, start = text[last.stop - start :], last.stop
    if not text:
        return
    text = clean(text)
    stop = start + len(text)
    if last is not None and last.stop == start and stop - last.start <= PART:
        last.text, last.stop = last.text + text, stop
    else:
        for begin in range(0, len(text), PART):
            piece = text[begin : begin + PART]
            place = start + begin
            session.add(
                LogPart(job_id=claim.job_id, attempt=claim.attempt, start=place, stop=place + len(piece), text=piece)
            )
    session.flush()
    session.execute(delete(LogPart).where(*own, LogPart.start >= KEEP_FIRST, LogPart.stop <= stop - KEEP_LAST))


def read(session: Session, job_id: str, attempt: int | None, after: int, limit: int) -> LogPage:
    """Return up to `limit` characters from position `after` on. Without `attempt`, the latest one is read.

    A page ends before omitted text; the next one begins behind it. Raises `NotFound` for an unknown attempt.
    """
    attempts = select(JobAttempt.attempt, JobAttempt.ended_at).where(JobAttempt.job_id == job_id)
    ends = {number: ended_at is not None for number, ended_at in session.execute(attempts)}
    latest = max(ends, default=None)
    shown = latest if attempt is None else attempt
    if attempt is not None and attempt not in ends:
        known = f"its latest attempt is {latest}" if latest is not None else "it has none yet"
        raise NotFound(f"Job {job_id} has no attempt {attempt}: {known}.", param="attempt")
    if shown is None:
        return LogPage(None, None, after, "", 0, has_more=False, has_ended=False)
    # Read after the attempt's end, which is written after the last text: no text of an ended attempt can be missing.
    later = (*_of_attempt(job_id, shown), LogPart.stop > after)
    first, size = session.execute(select(func.min(LogPart.start), func.max(LogPart.stop)).where(*later)).one()
    start = max(after, first or 0)
    text = _stretch(session, job_id, shown, start, limit)
    has_more = start + len(text) < (size or 0)
    return LogPage(shown, latest, start, text, start - after, has_more=has_more, has_ended=ends[shown])


def omission(omitted: int) -> str:
    """Return a line in place of omitted text; empty if nothing is omitted."""
    return f"\n[... {omitted:,} characters left out ...]\n" if omitted else ""


def _stretch(session: Session, job_id: str, attempt: int, start: int, limit: int) -> str:
    """Return up to `limit` characters from position `start` on, which is stored, up to the next gap."""
    touching = (*_of_attempt(job_id, attempt), LogPart.stop > start, LogPart.start < start + limit)
    text, place = "", start
    for part in session.scalars(select(LogPart).where(*touching).order_by(LogPart.start)):
        if part.start > place:
            break
        text, place = text + part.text[place - part.start :], part.stop
    return text[:limit]


def _of_attempt(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return LogPart.job_id == job_id, LogPart.attempt == attempt
