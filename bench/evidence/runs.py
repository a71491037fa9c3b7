"""One run: prepares rows, trains the stages of a method, and grades answers to validation, test and old rows."""

import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from app.core.spec.job import MethodType
from bench.evidence.api import MethodFailed, Service
from bench.evidence.cost import Tokens, job_tokens
from bench.evidence.methods import BASE, BATCH, HELD_OUT_IN_JOB, METHODS, Preparation
from bench.evidence.scenarios import (
    HELD_OUT_SEED,
    OLD_GRADER,
    SCENARIOS,
    TEST_ROWS,
    VALIDATION_ROWS,
    Scenario,
    Split,
    old_task,
)

VERSION: Final = 1
"""Version of what a run measures; results of another version are run again."""
PROMPTS: Final = 160
"""Training rows of every run."""
OLD_ROWS: Final = 32
OLD_MAX_TOKENS: Final = 16
"""Enough for "The capital of Venezuela is Caracas."."""


@dataclass(frozen=True)
class Run:
    """What one run does; its content names it."""

    scenario: str
    method: str
    seed: int
    rates: tuple[float, ...]
    """Learning rate of each stage."""
    steps: int
    """Optimiser steps of all stages together."""
    budget: str = "prompts"
    """`prompts`: as many prompts as every other method. `flops`: as many operations as the reference method."""
    prompts: int = PROMPTS
    """Training rows."""
    rows: int = TEST_ROWS
    """Most rows of each kind that are answered afterwards: the first ones."""

    @property
    def key(self) -> str:
        """A digest of everything that decides the result."""
        scenario, method = SCENARIOS[self.scenario], METHODS.get(self.method, BASE)
        described = {
            "version": VERSION,
            "run": asdict(self),
            "stages": [[stage.type, stage.settings, stage.prepare.__name__] for stage in method.stages],
            "scenario": [scenario.title, scenario.grader, scenario.max_tokens, scenario.max_length],
            "held_out": [HELD_OUT_SEED, VALIDATION_ROWS, OLD_ROWS, OLD_MAX_TOKENS, HELD_OUT_IN_JOB],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """One line for people."""
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        return f"{self.scenario}, {self.method}, seed {self.seed}, rate {rates or '-'}, {self.steps} steps"


def perform(run: Run, service: Service) -> dict[str, Any]:
    """Return the result of a run. A method that fails has a result too: `failed` says why.

    Raises `EvidenceError` if something other than the method failed, so that no result is stored.
    """
    began = time.monotonic()
    scenario = SCENARIOS[run.scenario]
    split = scenario.make(run.seed, run.prompts)
    described = {"key": run.key, **asdict(run), "rates": list(run.rates)}
    with ExitStack() as jobs:
        try:
            trained = _train(run, service, split, jobs)
        except MethodFailed as error:
            return described | {"failed": str(error)}
        measured = _measure(service, trained.model, scenario, split, run.rows)
    return (
        described
        | {"kept_rows": trained.kept_rows}
        | {"tokens": {name: round(value) for name, value in asdict(trained.tokens).items()}}
        | {"flops": trained.tokens.flops(service.parameters), **trained.measured, **measured}
        | {"seconds": round(time.monotonic() - began, 1)}
    )


@dataclass(frozen=True)
class _Trained:
    """The outcome of the stages of a run."""

    model: str
    tokens: Tokens
    kept_rows: int
    """Training rows of the last stage."""
    measured: dict[str, float | None]
    """Drift and entropy as the last job measured them on held-out rows."""


def _train(run: Run, service: Service, split: Split, jobs: ExitStack) -> _Trained:
    """Train the stages one after the other. `jobs` removes them at its end."""
    scenario, method = SCENARIOS[run.scenario], METHODS.get(run.method, BASE)
    use = Preparation(service, scenario, run.seed)
    done = _Trained(service.model, Tokens(), 0, {"forward_kl": 0.0, "entropy": None})
    for stage, rate, steps in zip(method.stages, run.rates, _shares(run.steps, len(method.stages)), strict=True):
        rows = stage.prepare(split.train, use)
        if not rows:
            raise MethodFailed("no row is left to train on")
        files = service.upload(rows), service.upload(split.validation[:HELD_OUT_IN_JOB])
        body = stage.body(scenario, model=done.model, files=files, seed=run.seed, rate=rate, steps=steps)
        job = service.train(body)
        jobs.callback(service.remove, job)
        used = stage.used_rows(job, len(rows))
        is_paired = stage.type is MethodType.dpo
        tokens = job_tokens(job["metrics"], rows=used, batch_size=BATCH, rollouts=stage.rollouts, is_paired=is_paired)
        values = job["evaluation"]["after"]["values"]
        measured = {"forward_kl": values.get("eval/forward_kl"), "entropy": values.get("eval/entropy")}
        done = _Trained(job["fine_tuned_model"], done.tokens + tokens, used, measured)
    return replace(done, tokens=done.tokens + Tokens(generated=use.sampled.tokens))


def _measure(service: Service, model: str, scenario: Scenario, split: Split, most: int) -> dict[str, str]:
    """Return which greedy answers of the model pass, row by row, as a text of zeros and ones."""
    found = {}
    for name, rows, grader, max_tokens in (
        ("validation", split.validation, scenario.grader, scenario.max_tokens),
        ("test", split.test, scenario.grader, scenario.max_tokens),
        ("old", old_task()[:OLD_ROWS], OLD_GRADER, OLD_MAX_TOKENS),
    ):
        passed = service.evaluate(model, rows[:most], grader, max_tokens=max_tokens)
        found[name] = "".join("01"[verdict] for verdict in passed)
    return found


def _shares(steps: int, stages: int) -> list[int]:
    """Divide the steps evenly among the stages."""
    return [steps * (place + 1) // stages - steps * place // stages for place in range(stages)]
