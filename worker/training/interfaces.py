"""What the loop asks of the world outside: somewhere to report to, and whether to stop."""

from typing import Protocol

from app.core.spec.reports import Report


class Reporter(Protocol):
    """Receives what happened, in order."""

    def __call__(self, report: Report, /) -> None:
        """Delivers one report; must not fail the run."""


class StopFlag(Protocol):
    """Asked once per optimiser step."""

    def is_set(self) -> bool:
        """Whether the run should checkpoint and stop now."""
