"""The broker notifier: one message per call; while the broker is down, a single thread retries."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from app.core import broker
from app.local.valkey import EmbeddedValkey

CALLS = 40


def notify_concurrently(url: str) -> None:
    with ThreadPoolExecutor(CALLS) as pool:
        for done in [pool.submit(broker.notify_training, url) for _ in range(CALLS)]:
            done.result()


@pytest.mark.slow
def test_concurrent_notifications(short_dir: Path) -> None:
    """Each call sends one message. While the broker is down one thread retries; later calls work again."""
    valkey = EmbeddedValkey(short_dir / "notified")
    with valkey, redis.Redis(unix_socket_path=valkey.url.removeprefix("redis+socket://")) as client:
        notify_concurrently(valkey.url)
        assert client.llen("train") == CALLS
    with capture_logs() as logs:
        notify_concurrently(valkey.url)
    attempts = [line for line in logs if line["event"] == "broker.unreachable"]
    assert 1 <= len(attempts) <= CALLS // 4  # the first call, and one more for the calls that arrived during it
    with valkey, redis.Redis(unix_socket_path=valkey.url.removeprefix("redis+socket://")) as client:
        client.flushall()
        notify_concurrently(valkey.url)
        assert client.llen("train") == CALLS
