"""Early stopping: ends training after `patience` evaluations in a row without a better held-out score."""

from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """Counts evaluations without improvement."""

    patience: int | None = None
    """Evaluations to wait for a better score; None never stops."""
    stale: int = 0
    """Evaluations since the score last improved."""

    def note(self, *, has_improved: bool) -> None:
        """Counts one evaluation. An equal score is no improvement."""
        self.stale = 0 if has_improved else self.stale + 1

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.stale >= self.patience
