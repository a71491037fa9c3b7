"""Retries with exponential backoff and jitter. A server's `Retry-After` and a stop event are honoured.

Requests to other servers, the trainer's reports and the command line use `retry`. The caller chooses the policy, which
errors are worth another attempt, and how to wait: `threading.Event.wait` ends the retries as soon as the event is set.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

T = TypeVar("T")

_RETRYABLE_STATUSES: Final = frozenset({408, 409, 425, 429})
"""Request timeout, conflict, too early, too many requests."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often work is attempted, and how long to wait between two attempts."""

    attempts: int | None
    """Including the first one; None means no limit."""
    longest_wait_seconds: float
    """Limit of every wait, also of one that a server requests with `Retry-After`."""
    first_wait_seconds: float = 1.0
    """The wait doubles after every further failure."""

    def wait_seconds(self, failures: int, requested_seconds: float = 0.0) -> float:
        """Return the wait after this number of failures (at least 1), with up to 50 % taken off at random.

        The jitter spreads out clients that failed at the same moment, so that they do not return at the same moment.
        """
        backoff = self.first_wait_seconds * 2.0 ** min(failures - 1, 30)
        jittered = min(backoff, self.longest_wait_seconds) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        return max(jittered, min(requested_seconds, self.longest_wait_seconds))


def retry(
    work: Callable[[], T],
    policy: RetryPolicy,
    *,
    is_retryable: Callable[[Exception], bool],
    wait: Callable[[float], object],
    requested_seconds: Callable[[Exception], float] = lambda _error: 0.0,
) -> T:
    """Return the result of `work`; raise its last error once it is not retryable or no attempt is left.

    `wait` blocks for the given number of seconds. It may return True or raise to stop. `requested_seconds` is the wait
    that the server requested together with the error.
    """
    failures = 0
    while True:
        try:
            return work()
        except Exception as error:
            failures += 1
            if failures == policy.attempts or not is_retryable(error):
                raise
            if wait(policy.wait_seconds(failures, requested_seconds(error))) is True:
                raise


async def retry_async(
    work: Callable[[], Awaitable[T]], policy: RetryPolicy, *, is_retryable: Callable[[Exception], bool]
) -> T:
    """Like `retry`, for a coroutine; cancelling the task stops it."""
    failures = 0
    while True:
        try:
            return await work()
        except Exception as error:
            failures += 1
            if failures == policy.attempts or not is_retryable(error):
                raise
        await asyncio.sleep(policy.wait_seconds(failures))


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Return the wait that `retry-after-ms` or `retry-after` (seconds or a date) requests; 0 if neither can be read."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after", "0")
        try:
            return max(0.0, float(text))
        except ValueError:
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no number, no date, or a date without a time zone
        return 0.0


def is_retryable_status(status: int) -> bool:
    """Return whether another request may succeed after a response with this HTTP status."""
    return status in _RETRYABLE_STATUSES or status >= 500
