"""Requests per minute: a token bucket for each key and project in Valkey, shared by all processes of the API.

A broker that is away refuses nobody: requests then pass uncounted. Of large buckets a process takes some tokens at once
and holds them for the requests that follow, so that few of these have to ask.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

log = structlog.get_logger(__name__)

TIMEOUT_SECONDS: Final = 0.25
BROKER_PAUSE_SECONDS: Final = 5.0
"""After a failure the broker is left alone for so long, so that it delays few requests."""
HELD_SECONDS: Final = 1.0
"""Tokens that nobody has used by then are lost."""
MAX_HELD: Final = 10_000
_PORTIONS_A_MINUTE: Final = 1200
"""What is taken at once is the share of a twentieth of a second: one token of a bucket of up to 2,399 a minute."""
_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "redis+socket": "unix"}
"""Celery's schemes -> redis-py's."""
_QUERY_OPTIONS: Final = {
    "virtual_host=": "db=",
    "ssl_cert_reqs=CERT_REQUIRED": "ssl_cert_reqs=required",
    "ssl_cert_reqs=CERT_OPTIONAL": "ssl_cert_reqs=optional",
    "ssl_cert_reqs=CERT_NONE": "ssl_cert_reqs=none",
}
"""Celery's words in the query of a URL -> redis-py's."""

# The generic cell rate algorithm: of a bucket only the time at which it will be full again is kept. It lets pass
# exactly what a bucket does that holds `limit` tokens and gets `limit` a minute, evenly.
_TAKE: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local full, wait = {}, 0
for i, key in ipairs(KEYS) do
    full[i] = math.max(tonumber(redis.call('GET', key) or 0), now) + ARGV[#ARGV] * 60000000 / ARGV[i]
    wait = math.max(wait, full[i] - 60000000 - now)
end
local answer = {math.ceil(wait)}
for i, key in ipairs(KEYS) do
    if wait > 0 then
        full[i] = full[i] - ARGV[#ARGV] * 60000000 / ARGV[i]
    else
        redis.call('SET', key, string.format('%.0f', full[i]), 'PX', 61000)
    end
    answer[2 * i] = math.max(0, math.floor((60000000 - full[i] + now) * ARGV[i] / 60000000 + 0.001))
    answer[2 * i + 1] = math.max(0, math.ceil(full[i] - now))
end
return answer
"""


@dataclass(frozen=True)
class RateAllowance:
    """What is left of the tightest of a request's buckets."""

    name: str
    limit: int
    """Requests a minute."""
    remaining: int
    reset_seconds: float
    """Until the bucket is full again."""
    wait_seconds: float
    """Until this request may pass; 0 when it may now."""


@dataclass
class _HeldTokens:
    """Tokens that were taken and not used yet."""

    tokens: int
    taken: RateAllowance
    until: float


def _bucket_key(buckets: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(buckets.items())


class RateLimiter:
    """Counts requests by the broker's clock."""

    def __init__(self, broker_url: str | None) -> None:
        """Counts nothing without a URL, or with one of a broker that is no Redis."""
        self._redis = _connect(broker_url)
        self._take = self._redis.register_script(_TAKE) if self._redis is not None else None
        self._paused_until = 0.0
        self._lock = threading.Lock()
        self._portion_lock = threading.Lock()
        self._held: dict[tuple[tuple[str, int], ...], _HeldTokens] = {}

    def is_available(self) -> bool:
        """Whether there is a broker to ask now."""
        return self._take is not None and time.monotonic() >= self._paused_until

    def take(self, buckets: Mapping[str, int]) -> RateAllowance | None:
        """Takes a token from each bucket (name -> requests a minute), or from none when one is empty.

        None when nothing could be counted: let the request pass.
        """
        portion = max(1, min(buckets.values()) // _PORTIONS_A_MINUTE)
        if portion == 1:
            return self._take_from_broker(buckets, 1)
        with self._portion_lock:  # one thread asks for a portion, and those that waited for it have their share of it
            return self.take_held(buckets) or self._take_portion(buckets, portion)

    def _take_portion(self, buckets: Mapping[str, int], portion: int) -> RateAllowance | None:
        taken = self._take_from_broker(buckets, portion)
        if taken is None:
            return None
        if taken.wait_seconds > 0:
            return self._take_from_broker(buckets, 1)  # the last tokens are taken one by one
        with self._lock:
            if len(self._held) >= MAX_HELD:
                self._held.clear()
            self._held[_bucket_key(buckets)] = _HeldTokens(portion - 1, taken, time.monotonic() + HELD_SECONDS)
        return replace(taken, remaining=taken.remaining + portion - 1)

    def take_held(self, buckets: Mapping[str, int]) -> RateAllowance | None:
        """Takes a token of those that this process holds, without waiting for anything; None if it holds none."""
        with self._lock:
            held = self._held.get(_bucket_key(buckets))
            if held is None or held.tokens == 0 or time.monotonic() > held.until:
                return None
            held.tokens -= 1
            return replace(held.taken, remaining=held.taken.remaining + held.tokens)

    def _take_from_broker(self, buckets: Mapping[str, int], tokens: int) -> RateAllowance | None:
        """Takes so many tokens from each bucket, or none."""
        if self._take is None or not self.is_available():
            return None
        try:
            keys = [f"grouptune:rate:{name}" for name in buckets]
            answer: list[Any] = self._take(keys, [*buckets.values(), tokens])
        except RedisError as error:
            self._paused_until = time.monotonic() + BROKER_PAUSE_SECONDS
            log.warning("rate_limit.broker_unreachable", error=str(error))
            return None
        wait, *rest = (int(number) for number in answer)
        left = [
            RateAllowance(name, limit, remaining, reset / 1e6, wait / 1e6)
            for (name, limit), remaining, reset in zip(buckets.items(), rest[::2], rest[1::2], strict=True)
        ]
        return min(left, key=lambda allowance: allowance.remaining)

    def close(self) -> None:
        """Closes the connections."""
        if self._redis is not None:
            self._redis.close()


def _connect(broker_url: str | None) -> Redis | None:
    scheme, _, rest = (broker_url or "").partition("://")
    if scheme not in _SCHEMES:
        if broker_url:
            log.warning("rate_limit.unavailable", reason=f"the broker speaks {scheme}, not Redis's protocol")
        return None
    for celery, redis in _QUERY_OPTIONS.items():
        rest = rest.replace(celery, redis)
    return Redis.from_url(
        f"{_SCHEMES[scheme]}://{rest}",
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
