"""The cases of `bench/train.py` and the timing of one contender. Imports neither torch nor any contender."""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

WARM_UP: Final = 2
VOCABULARY: Final = 40_000
LEARNING_RATE: Final = 1e-5

Build = Callable[["Case", Path, str], Callable[[], object]]
"""(case, model directory, contender) -> a function that runs one optimiser step, or one call of a sampler."""


@dataclass(frozen=True)
class Case:
    """One comparison: `prompts` groups of `members` responses per step, or conversations of `turns` turns.

    Lengths are in tokens; of a conversation, per turn.
    """

    name: str
    kind: str
    """`group`, `supervised`, `conversations` or `rollout`."""
    prompts: int
    members: int
    prompt_tokens: int
    response_tokens: int
    must: float
    """Goal: the other framework's time divided by Grouptune's."""
    contenders: tuple[str, ...] = ("ours", "trl", "trl-no-checkpointing")
    turns: int = 1


CASES: Final = (
    Case("group step, P = 4R", "group", 1, 8, 256, 64, 3.5),
    Case("group step, P = R", "group", 1, 8, 512, 512, 2.5, ("ours", "trl")),
    Case("supervised step", "supervised", 8, 1, 96, 96, 1.15),
    Case("supervised step, 6 turns", "conversations", 8, 1, 40, 40, 2.5, turns=6),
    Case("rollouts", "rollout", 8, 4, 64, 64, 1.5, ("ours", "trl")),
)


def tokens(case: Case) -> tuple[list[tuple[int, ...]], list[list[tuple[int, ...]]]]:
    """Return random prompts, and the responses to each; the same for every contender."""
    rng = random.Random(0)  # noqa: S311 - test data

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(100, VOCABULARY) for _ in range(count))

    prompts = [ids(case.prompt_tokens) for _ in range(case.prompts)]
    return prompts, [[ids(case.response_tokens) for _ in range(case.members)] for _ in prompts]


def conversations(case: Case) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Return conversations of random tokens: for each turn what the user says and the answer, which is trained."""
    users, answers = tokens(replace(case, prompts=case.prompts * case.turns))
    turns = [(user, answer) for user, [answer] in zip(users, answers, strict=True)]
    return [turns[start : start + case.turns] for start in range(0, len(turns), case.turns)]


def measure(build: Build) -> None:
    """Run the contender named on the command line; print times of each timed step and the peak memory as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender")
    parser.add_argument("case")
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("steps", type=int)
    options = parser.parse_args()
    with redirect_stdout(sys.stderr):
        step = build(Case(**json.loads(options.case)), options.model_dir, options.contender)
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds: list[float] = []
        cpu_seconds: list[float] = []
        for index in range(WARM_UP + options.steps):
            begun, cpu_begun = time.perf_counter(), time.process_time()
            step()
            if index >= WARM_UP:
                seconds.append(time.perf_counter() - begun)
                cpu_seconds.append(time.process_time() - cpu_begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "loaded_kib": loaded, "step_kib": peak - loaded}))
