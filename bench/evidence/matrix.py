"""Plans the runs: which comes next depends on the stored results only, so the order survives a restart.

For each method and scenario the learning rates are tried with the first seed. The rate with the best validation
accuracy is then run with the other seeds. Test rows take no part in this choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from bench.evidence.methods import BASE, BATCH, METHODS, Method
from bench.evidence.results import Results
from bench.evidence.runs import PROMPTS, Run
from bench.evidence.scenarios import SCENARIOS

STEPS: Final = PROMPTS // BATCH
SEEDS: Final = (1, 2, 3)
REFERENCE: Final = "gft"
"""Runs at equal cost take as many operations as this method does at equal prompts."""
SHORTEST: Final = 3


@dataclass(frozen=True)
class Size:
    """The part of the matrix that is run. A larger one contains the runs of a smaller one."""

    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    rates: int
    """Learning rates that are tried for each method, at most."""
    equal_cost: tuple[str, ...] = ()
    """Scenarios whose methods are also compared at equal operations."""


QUICK: Final = Size(("biased-40",), ("sft", "gft", "sft-graded", "rejection"), rates=2)
FULL: Final = Size(tuple(SCENARIOS), tuple(METHODS), rates=3, equal_cost=("biased-40", "clean", "letters"))


def next_run(size: Size, results: Results) -> Run | None:
    """Return the first run of the matrix that is not stored; None if all are."""
    return next((run for run in runs(size, results) if results.of(run) is None), None)


def runs(size: Size, results: Results) -> Iterator[Run]:
    """Yield the runs in order, up to one that depends on results that are not stored yet."""
    for scenario in size.scenarios:
        yield Run(scenario, BASE.name, 0, (), 0)
        for budget in ("prompts", "flops") if scenario in size.equal_cost else ("prompts",):
            for name in size.methods:
                if METHODS[name].fits(SCENARIOS[scenario]):
                    yield from _of_method(scenario, METHODS[name], budget, size, results)


def _of_method(scenario: str, method: Method, budget: str, size: Size, results: Results) -> Iterator[Run]:
    firsts = _first_rates(results, scenario, method)
    if firsts is None or (budget, method.name) == ("flops", REFERENCE):
        return
    if budget == "prompts":
        for rate in method.rates[: size.rates]:
            yield Run(scenario, method.name, SEEDS[0], (*firsts, rate), STEPS)
    chosen = chosen_rates(results, scenario, method.name)
    steps = STEPS if budget == "prompts" else equal_cost_steps(results, scenario, method.name)
    if chosen is None or steps is None:
        return
    for seed in SEEDS:
        yield Run(scenario, method.name, seed, chosen, steps, budget)


def sweep(results: Results, scenario: str, method: str) -> dict[float, float]:
    """Return the validation accuracy of each learning rate tried for the last stage, in the order of trial."""
    firsts = _first_rates(results, scenario, METHODS[method])
    tried = results.select(scenario=scenario, method=method, seed=SEEDS[0], budget="prompts")
    found = {
        run["rates"][-1]: share(run["validation"])
        for run in tried
        if "failed" not in run and tuple(run["rates"][:-1]) == firsts
    }
    return {rate: found[rate] for rate in METHODS[method].rates if rate in found}


def chosen_rates(results: Results, scenario: str, method: str) -> tuple[float, ...] | None:
    """Return the learning rate of each stage: the best on validation rows, and of equals the one tried first."""
    firsts, tried = _first_rates(results, scenario, METHODS[method]), sweep(results, scenario, method)
    return None if firsts is None or not tried else (*firsts, max(tried, key=lambda rate: tried[rate]))


def chosen_runs(results: Results, scenario: str, method: str, budget: str = "prompts") -> list[dict[str, Any]]:
    """Return the runs at the chosen learning rates, ordered by seed; those that failed are left out."""
    rates = None if method == BASE.name else chosen_rates(results, scenario, method)
    if method == REFERENCE:  # its cost at equal prompts is the measure
        budget = "prompts"
    found = [
        run
        for run in results.select(scenario=scenario, method=method, budget=budget)
        if "failed" not in run and (rates is None or tuple(run["rates"]) == rates)
    ]
    return sorted(found, key=lambda run: int(run["seed"]))


def failure(results: Results, scenario: str, method: str, budget: str = "prompts") -> str | None:
    """Return why a method has no result although it was run; None if it was not run or did not fail."""
    found = results.select(scenario=scenario, method=method, budget=budget)
    return str(found[0]["failed"]) if found and all("failed" in run for run in found) else None


def share(passed: str) -> float:
    """Return the share of the rows whose answer passes, from a text of zeros and ones."""
    return passed.count("1") / len(passed)


def equal_cost_steps(results: Results, scenario: str, method: str) -> int | None:
    """Return the steps that cost as many operations as the reference method at equal prompts.

    Operations that do not grow with the steps, such as those of stored answers, count too, so this is a mean per step.
    """
    costs = [[run["flops"] for run in chosen_runs(results, scenario, name)] for name in (REFERENCE, method)]
    if not all(costs):
        return None
    return max(SHORTEST, round(STEPS * fmean(costs[0]) / fmean(costs[1])))


def _first_rates(results: Results, scenario: str, method: Method) -> tuple[float, ...] | None:
    """Return the rates of all stages but the last one; None if one of these methods has no result yet."""
    rates = [chosen_rates(results, scenario, part) for part in method.parts]
    return None if None in rates else tuple(rate[-1] for rate in rates if rate is not None)
