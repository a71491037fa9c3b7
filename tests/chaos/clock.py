"""The time limit and the figures of a chaos test."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

MINUTES: Final = float(os.environ.get("GROUPTUNE_CHAOS_MINUTES", "10"))
SHARES: Final = {1: 4.0, 2: 3.0, 4: 2.0, 5: 3.0, 6: 1.0, 7: 4.0, 12: 1.0, 15: 1.0, 16: 0.5, 18: 2.0, 20: 2.0}
"""Row of the list -> its share of the time."""

Figure = int | float | str


@dataclass
class Clock:
    """The time limit of one row. Every row runs at least one round, however short the run is."""

    row: int
    figures: dict[str, Figure] = field(default_factory=dict)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.seconds = 60 * MINUTES * SHARES[self.row] / sum(SHARES.values())
        self._start = time.monotonic()

    def has_time(self) -> bool:
        """Whether another round may start. Counts the rounds."""
        self.rounds += 1
        return self.rounds == 1 or time.monotonic() - self._start < self.seconds

    def note(self, **figures: Figure) -> None:
        """Add figures to the table. In the names, `_` stands for a space."""
        self.figures |= {name.replace("_", " "): value for name, value in figures.items()}

    def stop(self) -> None:
        """Add the elapsed seconds."""
        self.figures = {"seconds": round(time.monotonic() - self._start)} | self.figures

    def times(self, name: str, seconds: Sequence[float]) -> None:
        """Add the median and the longest of some times."""
        ordered = sorted(seconds)
        self.note(
            **{f"{name}_median_s": round(ordered[len(ordered) // 2], 2), f"{name}_longest_s": round(ordered[-1], 2)}
        )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that the given share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
