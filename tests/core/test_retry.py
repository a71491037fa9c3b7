"""`app.core.retry`: backoff, jitter, `Retry-After` and stopping."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from app.core.retry import RetryPolicy, is_retryable_status, retry, retry_after_seconds, retry_async

POLICY = RetryPolicy(attempts=4, longest_wait_seconds=5.0)


class Flaky:
    """Work that fails `failures` times, then returns "done"."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.attempts = 0

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise TimeoutError(f"failure {self.attempts}")
        return "done"


def is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError)


def test_retries_until_success() -> None:
    work, waits = Flaky(3), list[float]()
    assert retry(work, POLICY, is_retryable=is_timeout, wait=waits.append) == "done"
    assert len(waits) == 3
    assert all(wait / 2 <= actual <= wait for actual, wait in zip(waits, (1, 2, 4), strict=True))


def test_last_error_is_raised() -> None:
    work, waits = Flaky(9), list[float]()
    with pytest.raises(TimeoutError, match="failure 4"):
        retry(work, POLICY, is_retryable=is_timeout, wait=waits.append)
    assert len(waits) == 3


def test_other_errors_are_not_retried() -> None:
    work = Flaky(1)
    with pytest.raises(TimeoutError):
        retry(work, POLICY, is_retryable=lambda _: False, wait=time.sleep)
    assert work.attempts == 1


def test_event_stops_the_wait() -> None:
    stop, work = threading.Event(), Flaky(9)
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    policy = RetryPolicy(attempts=None, longest_wait_seconds=60, first_wait_seconds=60)
    with pytest.raises(TimeoutError, match="failure 1"):
        retry(work, policy, is_retryable=is_timeout, wait=stop.wait)
    assert time.monotonic() - started < 20


def test_requested_wait_is_limited() -> None:
    waits = list[float]()
    retry(Flaky(1), POLICY, is_retryable=is_timeout, wait=waits.append, requested_seconds=lambda _: 3.0)
    retry(Flaky(1), POLICY, is_retryable=is_timeout, wait=waits.append, requested_seconds=lambda _: 600.0)
    assert waits == [3.0, 5.0]


def test_backoff_with_unlimited_attempts() -> None:
    policy = RetryPolicy(attempts=None, longest_wait_seconds=2.0)
    assert 1.0 <= policy.wait_seconds(10_000) <= 2.0


def test_async_work_is_retried() -> None:
    work = Flaky(2)

    async def attempt() -> str:
        return work()

    policy = RetryPolicy(attempts=None, longest_wait_seconds=0.01)
    assert asyncio.run(retry_async(attempt, policy, is_retryable=is_timeout)) == "done"
    with pytest.raises(TimeoutError):
        asyncio.run(retry_async(Flaky(1), policy, is_retryable=lambda _: False))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-7"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": format_datetime(datetime.now(UTC) - timedelta(hours=1))}, 0),
    ],
)
def test_retry_after_header(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_seconds(headers) == seconds


def test_retry_after_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100))
    assert 90 < retry_after_seconds({"retry-after": at}) <= 100


def test_retryable_statuses() -> None:
    assert [status for status in (400, 401, 404, 408, 409, 422, 425, 429, 500, 503) if is_retryable_status(status)] == [
        *(408, 409, 425, 429, 500, 503)
    ]
