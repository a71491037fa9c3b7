"""The demo's data and job: two-digit additions with a correct demonstration and partly wrong teacher answers.

Pure functions of a seed, so the package ships no data files. Neither a held-out problem nor its commuted form
(b + a) occurs in the training rows.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

BASE_MODEL: Final = "smollm2-135m-instruct"
TRAIN_ROWS: Final = 480
HELDOUT_ROWS: Final = 100
SMALLEST: Final = 11
LARGEST: Final = 99
TEACHER_RELIABILITY: Final = (0.8, 0.5, 0.2)

PROMPT: Final = "What is {a} + {b}?"


class Addition(NamedTuple):
    """An addition of two two-digit numbers."""

    a: int
    b: int

    @property
    def answer(self) -> int:
        return self.a + self.b


class Additions(NamedTuple):
    """Training and held-out problems; each unordered pair of numbers occurs at most once overall."""

    train: tuple[Addition, ...]
    heldout: tuple[Addition, ...]


def problems(seed: int) -> Additions:
    """Draw distinct problems; deterministic for a seed."""
    rng = random.Random(seed)  # noqa: S311 - a data set, not a secret
    pairs = [(a, b) for a in range(SMALLEST, LARGEST + 1) for b in range(a, LARGEST + 1)]
    drawn = rng.sample(pairs, TRAIN_ROWS + HELDOUT_ROWS)
    shuffled = [Addition(*rng.sample(pair, 2)) for pair in drawn]
    return Additions(tuple(shuffled[:TRAIN_ROWS]), tuple(shuffled[TRAIN_ROWS:]))


def row(problem: Addition, rng: random.Random) -> dict[str, Any]:
    """Build one row: prompt, demonstration, three teacher answers, and the reference answer for the grader."""
    return {
        "messages": [
            {"role": "user", "content": PROMPT.format(a=problem.a, b=problem.b)},
            {"role": "assistant", "content": _answer(problem, problem.answer)},
        ],
        "teacher_responses": _teachers(problem, rng),
        "reference_answer": str(problem.answer),
    }


def write_dataset(train_path: Path, heldout_path: Path, *, seed: int) -> None:
    """Write both files as JSONL, byte for byte the same for the same seed."""
    rng = random.Random(seed + 1)  # noqa: S311 - a data set, not a secret
    dataset = problems(seed)
    for path, part in ((train_path, dataset.train), (heldout_path, dataset.heldout)):
        lines = (json.dumps(row(problem, rng)) + "\n" for problem in part)
        path.write_text("".join(lines), encoding="utf-8")


def demo_job(training_file: str, validation_file: str, seed: int) -> dict[str, Any]:
    """Build the body of `POST /v1/fine_tuning/jobs` for the two uploaded files."""
    return {
        "model": BASE_MODEL,
        "training_file": training_file,
        "validation_file": validation_file,
        "seed": seed,
        "suffix": "demo",
        "method": {
            "type": "gft",
            "gft": {
                "grader": {
                    "type": "math",
                    "name": "answer",
                    "reference": "{{item.reference_answer}}",
                    "answer": "last_number",
                },
                "group": {"expert": 1, "teacher": 3, "self": 4},
                # At temperature 1, many rollouts of a model this small are gibberish.
                "sampling": {"temperature": 0.7, "max_tokens": 64},
                "hyperparameters": {
                    "batch_size": 8,
                    "max_steps": 14,
                    "learning_rate_multiplier": 60,
                    "lr_schedule": "cosine",
                    "eval_interval": 7,
                    "eval_samples": HELDOUT_ROWS,
                    "max_length": 128,
                },
            },
        },
    }


def _answer(problem: Addition, total: int) -> str:
    return f"{problem.a} + {problem.b} = {total}."


def _teachers(problem: Addition, rng: random.Random) -> Sequence[str]:
    """Answers of three teachers: one is mostly right, one half the time, one rarely."""
    return [
        _answer(problem, problem.answer if rng.random() < reliability else _wrong_sum(problem, rng))
        for reliability in TEACHER_RELIABILITY
    ]


def _wrong_sum(problem: Addition, rng: random.Random) -> int:
    """Return a plausible wrong sum: a missed or extra carry, or off by one."""
    return problem.answer + rng.choice((-10, 10, -1, 1))
