"""Bodies of `/v1/fine_tuning/jobs/{id}/logs`."""

from typing import Literal

from app.core.jobs.attempt_logs import LogPage
from app.core.spec.described import Described


class JobLog(Described):
    """A piece of the log of one attempt. To follow it, request again with `after` set to `next` until `complete`."""

    object: Literal["fine_tuning.job.log"] = "fine_tuning.job.log"
    job_id: str
    """The job."""
    attempt: int | None
    """The attempt whose log this is; null while the job has no attempt."""
    latest_attempt: int | None
    """The newest attempt of the job."""
    start: int
    """Position of the first character of `text`."""
    text: str
    """Plain text without secrets, colours and overwritten lines of progress bars."""
    next: int
    """The value of `after` for the next piece."""
    omitted: int
    """Number of characters before `text` that are no longer stored: of a log of more than 1,048,576 characters, the
    first 262,144 and the last 786,432 are kept."""
    has_more: bool
    """Whether more text is stored already."""
    complete: bool
    """Whether `text` ends the log: the attempt has ended, and no text is left."""

    @classmethod
    def of(cls, job_id: str, page: LogPage) -> "JobLog":
        """Return the wire form of a page."""
        return cls(
            job_id=job_id,
            attempt=page.attempt,
            latest_attempt=page.latest_attempt,
            start=page.start,
            text=page.text,
            next=page.next,
            omitted=page.omitted,
            has_more=page.has_more,
            complete=page.has_ended and not page.has_more,
        )
