"""Token buckets with a real Valkey."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from app.core.accounts.rate_limit import RateLimiter
from app.local.valkey import EmbeddedValkey


@pytest.fixture
def limiter(broker_url: str) -> Iterator[RateLimiter]:
    """A limiter with an empty Valkey."""
    with Redis.from_url(broker_url.replace("redis+socket", "unix")) as valkey:
        valkey.flushdb()
    limiter = RateLimiter(broker_url)
    yield limiter
    limiter.close()


def test_full_bucket_then_wait(limiter: RateLimiter) -> None:
    left = [limiter.take({"project:a": 6}) for _ in range(7)]
    assert [allowance and allowance.remaining for allowance in left] == [5, 4, 3, 2, 1, 0, 0]
    assert [allowance.wait_seconds > 0 for allowance in left if allowance] == [False] * 6 + [True]
    last = left[-1]
    assert last is not None
    assert 9 < last.wait_seconds <= 10  # six a minute: one token every ten seconds
    assert 59 < last.reset_seconds <= 60
    other = limiter.take({"project:b": 6})
    assert other is not None
    assert other.remaining == 5


def test_tokens_refill_evenly(limiter: RateLimiter) -> None:
    for _ in range(1200):
        limiter.take({"project:a": 1200})
    empty = limiter.take({"project:a": 1200})
    assert empty is not None
    assert 0 <= empty.wait_seconds <= 0.05
    threading.Event().wait(0.25)
    filled = limiter.take({"project:a": 1200})
    assert filled is not None
    assert filled.wait_seconds == 0
    assert 3 <= filled.remaining < 600


def test_refused_request_takes_no_tokens(limiter: RateLimiter) -> None:
    buckets = {"project:a": 10, "key:k": 2}
    left = [limiter.take(buckets) for _ in range(5)]
    assert [(allowance.name, allowance.remaining) for allowance in left if allowance] == [
        ("key:k", 1),
        *[("key:k", 0)] * 4,
    ]
    project = limiter.take({"project:a": 10})
    assert project is not None
    assert project.remaining == 7


def test_processes_share_one_bucket(limiter: RateLimiter, broker_url: str) -> None:
    others = [RateLimiter(broker_url) for _ in range(3)]
    barrier = threading.Barrier(8)

    def send(number: int) -> int:
        own_limiter = (limiter, *others)[number % 4]
        barrier.wait()
        taken = [own_limiter.take({"project:a": 40}) for _ in range(10)]
        return sum(allowance is not None and allowance.wait_seconds == 0 for allowance in taken)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 40
    for other in others:
        other.close()


def test_portion_of_a_large_bucket_is_held(limiter: RateLimiter) -> None:
    large = {"project:a": 120_000}
    assert limiter.take_held(large) is None
    first = limiter.take(large)
    assert first is not None
    held = [limiter.take_held(large) for _ in range(100)]
    left = [allowance.remaining for allowance in (first, *held) if allowance is not None]
    assert left == list(range(left[0], left[0] - 100, -1))  # a portion is a hundred tokens; each request takes one
    assert held[-1] is None


def test_last_tokens_are_taken_one_by_one(limiter: RateLimiter, broker_url: str) -> None:
    limit = 2_400_000  # portions of 2,000
    with Redis.from_url(broker_url.replace("redis+socket", "unix")) as valkey:
        seconds, micros = valkey.time()
        nearly_empty = seconds * 1_000_000 + micros + 59_990_000  # less than one portion is left
        valkey.set("grouptune:rate:project:a", nearly_empty)
    allowance = limiter.take({"project:a": limit})
    assert allowance is not None
    assert allowance.wait_seconds == 0
    assert limiter.take_held({"project:a": limit}) is None


def test_lowered_limit_applies_at_once(limiter: RateLimiter) -> None:
    for _ in range(5):
        limiter.take({"project:a": 10})  # half of the tokens
    after = limiter.take({"project:a": 2})
    assert after is not None
    assert after.remaining == 0


def test_unreachable_broker_lets_requests_pass(short_dir: Path) -> None:
    pause_seconds = 0.2
    with EmbeddedValkey(short_dir / "going") as valkey:
        limiter = RateLimiter(valkey.url, pause_seconds=pause_seconds)
        assert limiter.take({"project:a": 1}) is not None
        refused = limiter.take({"project:a": 1})
        assert refused is not None
        assert refused.wait_seconds > 0
        valkey.stop()
        begun = time.monotonic()
        with capture_logs() as logs:
            assert [limiter.take({"project:a": 1}) for _ in range(200)] == [None] * 200
        failures = [entry for entry in logs if entry["event"] == "rate_limit.broker_unreachable"]
        assert 1 <= len(failures) <= 1 + (time.monotonic() - begun) / pause_seconds
        valkey.start()
        threading.Event().wait(0.3)
        back = limiter.take({"project:a": 1})
        assert back is not None
        assert back.wait_seconds == 0  # the restarted Valkey is empty
        limiter.close()


def test_hanging_broker_times_out_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.setblocking(False)
        limiter = RateLimiter(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0")
        assert limiter.take({"project:a": 1}) is None  # the server never answers: take returns after its timeout
        deaf.accept()[0].close()
        assert limiter.take({"project:a": 1}) is None
        with pytest.raises(BlockingIOError):
            deaf.accept()
        limiter.close()


@pytest.mark.parametrize("url", [None, "", "amqp://guest@127.0.0.1:1//"])
def test_without_redis_nothing_is_counted(url: str | None) -> None:
    limiter = RateLimiter(url)
    assert limiter.take({"project:a": 1}) is None
    limiter.close()


def test_celery_broker_urls_are_accepted() -> None:
    limiter = RateLimiter("rediss://:secret@127.0.0.1:1/3?ssl_cert_reqs=CERT_REQUIRED")
    assert limiter.take({"project:a": 1}) is None
    limiter.close()
    socket_limiter = RateLimiter("redis+socket:///nowhere/valkey.sock?virtual_host=2")
    assert socket_limiter.take({"project:a": 1}) is None
    socket_limiter.close()
