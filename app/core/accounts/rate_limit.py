"""Rate limits: a token bucket for each key and each project, in Valkey, shared by all API processes.

If the broker is unreachable, requests pass uncounted: an outage of the broker must not become an outage of the API.
From large buckets a process takes a portion of tokens at once and spends it on the following requests, so that most of
them need no round trip.
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
"""After a failure, the broker is not contacted for this long, so that an outage delays few requests."""
HELD_SECONDS: Final = 1.0
"""Unused tokens of a portion expire after this long."""
MAX_HELD: Final = 10_000
_PORTIONS_A_MINUTE: Final = 1200
"""A portion is the share of 1/20 second: 1 token for buckets of up to 2,399 a minute."""
_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "redis+socket": "unix"}
"""URL schemes of Celery -> those of redis-py."""
_QUERY_OPTIONS: Final = {
    "virtual_host=": "db=",
    "ssl_cert_reqs=CERT_REQUIRED": "ssl_cert_reqs=required",
    "ssl_cert_reqs=CERT_OPTIONAL": "ssl_cert_reqs=optional",
    "ssl_cert_reqs=CERT_NONE": "ssl_cert_reqs=none",
}
"""Query options in broker URLs as Celery spells them -> as redis-py does."""

# Takes ARGV[last] tokens from every bucket in KEYS, or none if a bucket holds too few; ARGV[i] is the limit of KEYS[i].
# Runs atomically in Valkey, by Valkey's clock, so processes with different clocks agree. Times are in microseconds.
#
# This is the generic cell rate algorithm. A bucket is stored as one number: the time at which it will be full again.
# Taking a token moves that time forward by 60 s / limit. An empty bucket is full in 60 s, so a request that would move
# the time further ahead than that is refused. This admits the same requests as a counter of `limit` tokens that is
# refilled evenly with `limit` tokens a minute. A full bucket needs no key, so keys expire after 61 s.
#
# The answer is the wait until all buckets hold enough tokens, then for each bucket the tokens left (0.001 compensates
# for rounding errors) and the time until it is full.
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
    """The balance of the tightest bucket of a request."""

    name: str
    limit: int
    """Requests per minute."""
    remaining: int
    reset_seconds: float
    """Time until the bucket is full again."""
    wait_seconds: float
    """Time until this request may pass; 0 if it may pass now."""


@dataclass
class _HeldTokens:
    """A portion of tokens that this process took and has not spent."""

    tokens: int
    taken: RateAllowance
    until: float


def _bucket_key(buckets: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(buckets.items())


class RateLimiter:
    """Counts requests in the broker, by the broker's clock."""

    def __init__(self, broker_url: str | None, *, pause_seconds: float = BROKER_PAUSE_SECONDS) -> None:
        """Counts nothing without a URL, or if the broker is not Redis or Valkey.

        A broker that failed is tried again after `pause_seconds`.
        """
        self._pause_seconds = pause_seconds
        self._redis = _connect(broker_url)
        self._take = self._redis.register_script(_TAKE) if self._redis is not None else None
        self._paused_until = 0.0
        self._lock = threading.Lock()
        self._portion_lock = threading.Lock()
        self._held: dict[tuple[tuple[str, int], ...], _HeldTokens] = {}

    def is_available(self) -> bool:
        """Return whether the broker can be contacted now."""
        return self._take is not None and time.monotonic() >= self._paused_until

    def take(self, buckets: Mapping[str, int]) -> RateAllowance | None:
        """Take a token from each bucket (name -> requests per minute), or from none if one is empty.

        Returns None if the request could not be counted; let it pass then.
        """
        portion = max(1, min(buckets.values()) // _PORTIONS_A_MINUTE)
        if portion == 1:
            return self._take_from_broker(buckets, 1)
        # One thread takes a portion; the threads that waited for the lock then spend from it.
        with self._portion_lock:
            return self.take_held(buckets) or self._take_portion(buckets, portion)

    def _take_portion(self, buckets: Mapping[str, int], portion: int) -> RateAllowance | None:
        taken = self._take_from_broker(buckets, portion)
        if taken is None:
            return None
        if taken.wait_seconds > 0:
            return self._take_from_broker(buckets, 1)  # too few tokens for a portion are left: take them one by one
        with self._lock:
            if len(self._held) >= MAX_HELD:
                self._held.clear()
            self._held[_bucket_key(buckets)] = _HeldTokens(portion - 1, taken, time.monotonic() + HELD_SECONDS)
        return replace(taken, remaining=taken.remaining + portion - 1)

    def take_held(self, buckets: Mapping[str, int]) -> RateAllowance | None:
        """Take a token from the portion that this process holds, without waiting; None if it holds none."""
        with self._lock:
            held = self._held.get(_bucket_key(buckets))
            if held is None or held.tokens == 0 or time.monotonic() > held.until:
                return None
            held.tokens -= 1
            return replace(held.taken, remaining=held.taken.remaining + held.tokens)

    def _take_from_broker(self, buckets: Mapping[str, int], tokens: int) -> RateAllowance | None:
        """Take `tokens` from each bucket, or none."""
        if self._take is None or not self.is_available():
            return None
        try:
            keys = [f"grouptune:rate:{name}" for name in buckets]
            answer: list[Any] = self._take(keys, [*buckets.values(), tokens])
        except RedisError as error:
            self._paused_until = time.monotonic() + self._pause_seconds
            log.warning("rate_limit.broker_unreachable", error=str(error))
            return None
        wait, *rest = (int(number) for number in answer)
        balances = [
            RateAllowance(name, limit, remaining, reset / 1e6, wait / 1e6)
            for (name, limit), remaining, reset in zip(buckets.items(), rest[::2], rest[1::2], strict=True)
        ]
        return min(balances, key=lambda allowance: allowance.remaining)

    def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            self._redis.close()


def _connect(broker_url: str | None) -> Redis | None:
    scheme, _, rest = (broker_url or "").partition("://")
    if scheme not in _SCHEMES:
        if broker_url:
            log.warning("rate_limit.unavailable", reason=f"the broker's protocol is {scheme}, not Redis")
        return None
    for celery, redis in _QUERY_OPTIONS.items():
        rest = rest.replace(celery, redis)
    return Redis.from_url(
        f"{_SCHEMES[scheme]}://{rest}",
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
