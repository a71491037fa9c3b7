"""Charges requests to the rate limits of project and key, and reports the balance in OpenAI's headers."""

from typing import Final

from fastapi.concurrency import run_in_threadpool

from app.auth.principal import Principal
from app.core.accounts.rate_limit import RateAllowance, RateLimiter
from app.core.errors import RateLimited
from app.core.plurals import plural

_PROJECT: Final = "project"
_KEY: Final = "key"


async def charge(limiter: RateLimiter, caller: Principal, key_limit: int | None, headers: dict[str, str]) -> None:
    """Take one request from the project's bucket and, if the key has its own limit, from the key's bucket.

    Adds the `x-ratelimit-*-requests` headers of the tighter bucket to `headers`. Raises `RateLimited`.
    """
    buckets = {f"{_PROJECT}:{caller.project_id}": caller.limits.requests_per_minute}
    if key_limit is not None:
        buckets[f"{_KEY}:{caller.key_id}"] = key_limit
    allowance = limiter.take_held(buckets)
    if allowance is None and limiter.is_available():  # switching to a thread costs more than everything else here
        allowance = await run_in_threadpool(limiter.take, buckets)
    if allowance is None:
        return
    headers["x-ratelimit-limit-requests"] = str(allowance.limit)
    headers["x-ratelimit-remaining-requests"] = str(allowance.remaining)
    headers["x-ratelimit-reset-requests"] = duration(allowance.reset_seconds)
    if allowance.wait_seconds > 0:
        raise _refusal(caller, allowance)


def duration(seconds: float) -> str:
    """Format seconds as OpenAI does: `120ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _refusal(caller: Principal, allowance: RateAllowance) -> RateLimited:
    of_key = allowance.name.startswith(_KEY)
    who = f"API key '{caller.key_id}'" if of_key else f"project '{caller.project_name}'"
    remedy = "use a key without a limit of its own" if of_key else "ask an administrator for a higher limit"
    error = RateLimited(
        f"The {who} may send {plural(allowance.limit, 'request')} a minute (requests_per_minute). Retry in "
        f"{duration(allowance.wait_seconds)}, send fewer requests, or {remedy}."
    )
    error.retry_after_seconds = allowance.wait_seconds
    return error
