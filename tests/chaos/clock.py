"""How long a chaos test may go on, and what it found."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

MINUTES: Final = float(os.environ.get("GROUPTUNE_CHAOS_MINUTES", "10"))
SHARES: Final = {1: 4.0, 2: 3.0, 4: 2.0, 5: 3.0, 6: 1.0, 7: 4.0, 12: 1.0, 15: 1.0, 16: 0.5, 18: 2.0, 20: 2.0}
"""Row of the list -> its part of the time."""

Figure = int | float | str


@dataclass
class Clock:
    """The time of one row; every row goes once round its loop, however short the run is."""

    row: int
    figures: dict[str, Figure] = field(default_factory=dict)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.seconds = 60 * MINUTES * SHARES[self.row] / sum(SHARES.values())
        self._begun = time.monotonic()

    def go_on(self) -> bool:
        """Whether there is time for another round."""
        self.rounds += 1
        return self.rounds == 1 or time.monotonic() - self._begun < self.seconds

    def note(self, **figures: Figure) -> None:
        """What goes into the table, in words with `_` for spaces."""
        self.figures |= {name.replace("_", " "): value for name, value in figures.items()}

    def stop(self) -> None:
        """Notes how long it went."""
        self.figures = {"seconds": round(time.monotonic() - self._begun)} | self.figures

    def times(self, name: str, seconds: Sequence[float]) -> None:
        """The median and the longest of some times."""
        ordered = sorted(seconds)
        self.note(
            **{f"{name}_median_s": round(ordered[len(ordered) // 2], 2), f"{name}_longest_s": round(ordered[-1], 2)}
        )


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
