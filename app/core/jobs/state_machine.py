"""The job state machine as data. docs/jobs.md shows it as a diagram, and a test compares the two."""

from enum import StrEnum
from typing import Final


class JobStatus(StrEnum):
    """States of a job: OpenAI's names plus `paused`."""

    validating_files = "validating_files"
    queued = "queued"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


_S = JobStatus

TRANSITIONS: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    _S.validating_files: frozenset({_S.queued, _S.failed, _S.cancelled}),
    _S.queued: frozenset({_S.running, _S.paused, _S.cancelled, _S.failed}),
    _S.running: frozenset({_S.succeeded, _S.failed, _S.cancelled, _S.queued, _S.paused}),
    _S.paused: frozenset({_S.queued, _S.cancelled}),
    _S.succeeded: frozenset(),
    _S.failed: frozenset(),
    _S.cancelled: frozenset(),
}

TERMINAL: Final = frozenset(status for status, following in TRANSITIONS.items() if not following)


class StopRequest(StrEnum):
    """Why a running attempt must stop, the strongest reason first.

    A job stores the requests in `STORED_STOP_REQUESTS`; its runner polls for them. `drain` comes from the worker.
    """

    cancel = "cancel"
    """A client cancelled the job."""
    pause = "pause"
    """A client paused the job."""
    preempt = "preempt"
    """A queued job with a higher priority needs the slot."""
    drain = "drain"
    """The worker shuts down."""

    def outranks(self, other: "StopRequest | None") -> bool:
        """Return whether this request replaces `other`."""
        order = list(StopRequest)
        return other is None or order.index(self) < order.index(other)


STORED_STOP_REQUESTS: Final = (StopRequest.cancel, StopRequest.pause, StopRequest.preempt)


class AttemptOutcome(StrEnum):
    """Why an attempt ended."""

    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    paused = "paused"
    drained = "drained"
    """The worker shut down."""
    preempted = "preempted"
    """A job of a higher priority took the place."""
    dependency_down = "dependency_down"
    """A service that the job needs was unavailable."""
    crashed = "crashed"
    gpu_fault = "gpu_fault"
    """The GPU is broken. The worker claims no more jobs."""
    lost_lease = "lost_lease"


MIN_PRIORITY: Final = -100
MAX_PRIORITY: Final = 100
"""A higher priority goes first; the default is 0."""
