"""Wakes the rollout servers that share this worker's devices (docs/rollouts.md) once no trainer runs there any more.

The trainer leaves them asleep, and one that was killed could not wake them. Its memory must be free first: a server
that finds too little cannot be woken again.
"""

import os
import time
from typing import Final

import httpx
import structlog

from app.core.retry import RetryPolicy, is_retryable_status, retry
from app.core.settings import Settings
from app.core.spec.subprocess_environment import ROLLOUT_API_KEY

log = structlog.get_logger(__name__)

RETRY_POLICY: Final = RetryPolicy(attempts=3, longest_wait_seconds=5.0)
WAKE_SECONDS: Final = 120.0
CONNECT_SECONDS: Final = 10.0


def wake_up(settings: Settings, retry_policy: RetryPolicy = RETRY_POLICY) -> None:
    """Wake all servers, if they share this worker's devices. Logs those that do not wake up; the next job can."""
    if not settings.rollout_shares_device:
        return
    key = os.environ.get(ROLLOUT_API_KEY)
    with httpx.Client(
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(WAKE_SECONDS, connect=CONNECT_SECONDS),
        trust_env=False,  # the operator named these servers; a proxy from the environment may not reach them
    ) as client:
        for url in settings.rollout_url:
            try:
                retry(
                    lambda url=url: client.post(f"{url}/wake_up").raise_for_status(),  # type: ignore[misc]
                    retry_policy,
                    is_retryable=_is_retryable,
                    wait=time.sleep,
                )
            except httpx.HTTPError as error:
                log.warning("rollout_server.not_woken", url=url, error=str(error))


def _is_retryable(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return is_retryable_status(error.response.status_code)
    return isinstance(error, httpx.HTTPError)
