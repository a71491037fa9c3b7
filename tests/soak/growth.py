"""Compares the figures of processes after a soak with those after its warm-up. Contains no measuring."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Allowance:
    """How much a figure may grow although nothing leaks: caches and pools fill up at different times."""

    share: float
    """Of the figure after the warm-up."""
    units: float

    def limit(self, baseline: float) -> float:
        """Return the largest figure that counts as flat."""
        return baseline * (1 + self.share) + self.units


Figures = Mapping[str, float]
Snapshot = Mapping[str, Figures]
"""Process, or `installation` -> its figures."""

ALLOWANCES: Final = {
    "descriptors": Allowance(0.0, 10),
    "threads": Allowance(0.0, 8),
    "memory MB": Allowance(0.1, 10),
    "processes": Allowance(0.0, 0),
    "temporary files": Allowance(0.0, 0),
    "Postgres connections": Allowance(0.0, 10),
    "Valkey connections": Allowance(0.0, 6),
    "Valkey keys": Allowance(0.0, 2),
}
"""Figure -> its allowance. A pool keeps up to ten connections, each of them a descriptor."""


def growths(baseline: Snapshot, end: Snapshot) -> list[str]:
    """Return one sentence for each figure that grew, and for each process that is absent from one snapshot."""
    problems = [f"{process} does not run at the end." for process in baseline.keys() - end.keys()]
    problems += [f"{process} did not run after the warm-up." for process in end.keys() - baseline.keys()]
    for process in sorted(baseline.keys() & end.keys()):
        for name, before in baseline[process].items():
            limit = ALLOWANCES[name].limit(before)
            if end[process][name] > limit:
                problems.append(
                    f"{process}: {name} grew from {before:g} after the warm-up to {end[process][name]:g}; "
                    f"up to {limit:g} counts as flat."
                )
    return problems
