"""Every ring is a message; while the broker is away one thread waits for it, not one for each ring."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis
from structlog.testing import capture_logs

from app.core import broker
from app.local.valkey import EmbeddedValkey

RINGS = 40


def ring_at_once(url: str) -> None:
    with ThreadPoolExecutor(RINGS) as pool:
        for done in [pool.submit(broker.ring_training, url) for _ in range(RINGS)]:
            done.result()


def test_each_of_many_rings_at_once_is_a_message_and_a_broker_that_is_away_is_tried_by_one(short_dir: Path) -> None:
    valkey = EmbeddedValkey(short_dir / "bell")
    with valkey, redis.Redis(unix_socket_path=valkey.url.removeprefix("redis+socket://")) as client:
        ring_at_once(valkey.url)
        assert client.llen("train") == RINGS
    with capture_logs() as logs:
        ring_at_once(valkey.url)
    tried = [one for one in logs if one["event"] == "broker.unreachable"]
    assert 1 <= len(tried) <= RINGS // 4  # the first, and once more for those who came meanwhile
    with valkey, redis.Redis(unix_socket_path=valkey.url.removeprefix("redis+socket://")) as client:
        client.flushall()
        ring_at_once(valkey.url)
        assert client.llen("train") == RINGS
