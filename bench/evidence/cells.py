"""One method in one scenario, over the seeds that have run at its chosen learning rates."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.evidence.intervals import Estimate, difference, mean_of, mean_over_seeds
from bench.evidence.matrix import chosen_runs
from bench.evidence.methods import BASE, METHODS, Method
from bench.evidence.results import Results
from bench.evidence.scenarios import SCENARIOS


@dataclass(frozen=True)
class Cell:
    """The runs of one method, by seed."""

    method: Method
    runs: dict[int, dict[str, Any]]

    @property
    def accuracy(self) -> Estimate:
        """The share of test rows whose greedy answer passes."""
        return mean_of([_grid(run["test"]) for run in self.runs.values()])

    @property
    def old(self) -> Estimate:
        """The share of the questions of the old task that are still answered."""
        return mean_of([_grid(run["old"]) for run in self.runs.values()])

    @property
    def drift(self) -> Estimate:
        """Forward KL to the base model in nats a token."""
        return mean_over_seeds([run["forward_kl"] for run in self.runs.values()])

    @property
    def entropy(self) -> float | None:
        """Mean entropy along greedy answers, in nats a token."""
        values = [run["entropy"] for run in self.runs.values() if run["entropy"] is not None]
        return fmean(values) if values else None

    @property
    def flops(self) -> float:
        """Mean operations of a run."""
        return fmean(run["flops"] for run in self.runs.values())

    @property
    def rates(self) -> tuple[float, ...]:
        """The chosen learning rate of each stage."""
        return tuple(next(iter(self.runs.values()))["rates"])

    @property
    def kept_rows(self) -> float:
        """Mean training rows of the last stage."""
        return fmean(run["kept_rows"] for run in self.runs.values())


def cell(results: Results, scenario: str, method: str, budget: str = "prompts") -> Cell | None:
    """Return the cell of a method that has run; None otherwise."""
    runs = {int(run["seed"]): run for run in chosen_runs(results, scenario, method, budget)}
    return Cell(METHODS.get(method, BASE), runs) if runs else None


def cells(results: Results, scenario: str, budget: str = "prompts") -> dict[str, Cell | None]:
    """Return the cell of each method that the scenario can compare, in the order of the matrix."""
    fitting = [name for name, method in METHODS.items() if method.fits(SCENARIOS[scenario])]
    return {name: cell(results, scenario, name, budget) for name in fitting}


def against(new: Cell, old: Cell) -> Estimate | None:
    """Return the accuracy of `new` minus that of `old`, paired by seed and row; None without a common seed."""
    seeds = [seed for seed in new.runs if seed in old.runs]
    if not seeds:
        return None
    return difference(*([_grid(one.runs[seed]["test"]) for seed in seeds] for one in (new, old)))


def drift_against(new: Cell, old: Cell) -> Estimate | None:
    """Return the forward KL of `new` minus that of `old`, paired by seed; None without a common seed."""
    seeds = [seed for seed in new.runs if seed in old.runs]
    if not seeds:
        return None
    return mean_over_seeds([new.runs[seed]["forward_kl"] - old.runs[seed]["forward_kl"] for seed in seeds])


def _grid(passed: str) -> list[float]:
    return [float(digit) for digit in passed]
