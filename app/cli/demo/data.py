"""The demo's data and job: two-digit additions with right answers, right and wrong teacher answers.

Pure functions of a seed, so that the demo needs no files besides the package. Held-out problems never occur in
the training rows, nor do their commuted twins.
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


class Problem(NamedTuple):
    """One addition of two numbers with two digits."""

    a: int
    b: int

    @property
    def answer(self) -> int:
        return self.a + self.b


class Problems(NamedTuple):
    """Both halves of the data set; no unordered pair of numbers is in both, or twice in one."""

    train: tuple[Problem, ...]
    heldout: tuple[Problem, ...]


def problems(seed: int) -> Problems:
    """Distinct problems, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - a data set, not a secret
    pairs = [(a, b) for a in range(SMALLEST, LARGEST + 1) for b in range(a, LARGEST + 1)]
    drawn = rng.sample(pairs, TRAIN_ROWS + HELDOUT_ROWS)
    shuffled = [Problem(*rng.sample(pair, 2)) for pair in drawn]
    return Problems(tuple(shuffled[:TRAIN_ROWS]), tuple(shuffled[TRAIN_ROWS:]))


def row(problem: Problem, rng: random.Random) -> dict[str, Any]:
    """One line of the data set: the prompt, an expert's answer, three teacher answers, the truth for the grader."""
    return {
        "messages": [
            {"role": "user", "content": PROMPT.format(a=problem.a, b=problem.b)},
            {"role": "assistant", "content": _answer(problem, problem.answer)},
        ],
        "teacher_responses": _teachers(problem, rng),
        "reference_answer": str(problem.answer),
    }


def write_dataset(train_path: Path, heldout_path: Path, *, seed: int) -> None:
    """Writes both files as JSON lines, byte for byte the same for the same seed."""
    rng = random.Random(seed + 1)  # noqa: S311 - a data set, not a secret
    both = problems(seed)
    for path, chosen in ((train_path, both.train), (heldout_path, both.heldout)):
        lines = (json.dumps(row(problem, rng)) + "\n" for problem in chosen)
        path.write_text("".join(lines), encoding="utf-8")


def demo_job(training_file: str, validation_file: str, seed: int) -> dict[str, Any]:
    """Body of `POST /v1/fine_tuning/jobs` for the two uploaded files."""
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
                # Cooler than 1, where many rollouts of a model this small were seen to be gibberish.
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


def _answer(problem: Problem, total: int) -> str:
    return f"{problem.a} + {problem.b} = {total}."


def _teachers(problem: Problem, rng: random.Random) -> Sequence[str]:
    """Three teachers: one mostly right, one often wrong, one seldom right."""
    return [
        _answer(problem, problem.answer if rng.random() < reliability else _slipped(problem, rng))
        for reliability in TEACHER_RELIABILITY
    ]


def _slipped(problem: Problem, rng: random.Random) -> int:
    """A plausible wrong sum: a forgotten or invented carry, or one off."""
    return problem.answer + rng.choice((-10, 10, -1, 1))
