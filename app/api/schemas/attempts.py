"""Bodies of `/v1/fine_tuning/jobs/{id}/attempts`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from app.core.jobs.state_machine import AttemptOutcome
from app.core.jobs.tables import JobAttempt
from app.core.spec.described import Described


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())


class AttemptObject(Described):
    """One attempt of a worker to run the job."""

    object: Literal["fine_tuning.job.attempt"] = "fine_tuning.job.attempt"
    epoch: int
    """Number of the attempt, from 1."""
    worker: str
    """The worker that ran the attempt."""
    members: list[str] = Field(description="The further workers of a job that several workers trained together.")
    started_at: int
    """Unix seconds at which the worker claimed the job."""
    ended_at: int | None
    """Unix seconds; null while the attempt runs."""
    outcome: AttemptOutcome | None = Field(description="Null while the attempt runs. See docs/reliability.md.")
    reason: str | None
    """Why the attempt ended; null while it runs."""
    training_at: int | None = Field(description="When its first step started; null if it ended while loading.")
    resumed_from_step: int
    """Step of the checkpoint that it started from; 0 for the beginning."""
    last_step: int | None = Field(description="The last step that it reported; null if it ended before its first step.")

    @classmethod
    def of(cls, attempt: JobAttempt, last_step: int | None, members: Sequence[str] = ()) -> "AttemptObject":
        """Return the wire form of a row."""
        return cls(
            epoch=attempt.attempt,
            worker=attempt.worker,
            members=list(members),
            started_at=_unix(attempt.started_at),
            ended_at=_unix(attempt.ended_at) if attempt.ended_at else None,
            outcome=AttemptOutcome(attempt.outcome) if attempt.outcome else None,
            reason=attempt.reason,
            training_at=_unix(attempt.training_at) if attempt.training_at else None,
            resumed_from_step=attempt.resumed_from_step,
            last_step=last_step,
        )


class AttemptList(Described):
    """All attempts, oldest first."""

    object: Literal["list"] = "list"
    data: list[AttemptObject]
    """The attempts."""
