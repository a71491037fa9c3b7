"""Keeps a claim on a file, a check of its rows or an export during the work, by renewing it when it is due."""

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

CLAIM_SECONDS: Final = 60.0
"""The work of a dead worker can be claimed again after this time."""
RENEW_SECONDS: Final = 15.0
Claim = TypeVar("Claim")


class TakenOver(Exception):
    """Another worker has claimed the work."""


class ClaimKeeper(Generic[Claim]):
    """A claim that lasts as long as `keep` is called often enough."""

    def __init__(
        self, current: Claim, renew: Callable[[Claim], Claim | None], *, every_seconds: float = RENEW_SECONDS
    ) -> None:
        """`renew` extends a claim by `CLAIM_SECONDS` and returns the new one, or None if another worker took over."""
        self._renew = renew
        self._every_seconds = every_seconds
        self._renew_at = time.monotonic() + every_seconds
        self.current = current

    def keep(self) -> None:
        """Renew the claim when it is due. Raises `TakenOver` and the errors of `renew`."""
        if time.monotonic() < self._renew_at:
            return
        renewed = self._renew(self.current)
        if renewed is None:
            raise TakenOver
        self.current = renewed
        self._renew_at = time.monotonic() + self._every_seconds
