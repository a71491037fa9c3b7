"""The tasks: training rows, validation rows that choose learning rates, and test rows that choose nothing.

Pure functions of a seed. Validation and test rows are the same for all seeds, so that two methods are compared on the
same rows; the seed draws training rows, their errors, and everything random in training.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.cli.demo.data import LARGEST, SMALLEST, Addition, row
from app.sources import reasoning_gym_rows

Row = dict[str, Any]

VALIDATION_ROWS: Final = 32
TEST_ROWS: Final = 100
MATH: Final = {"type": "math", "name": "answer", "reference": "{{item.reference_answer}}", "answer": "last_number"}
HELD_OUT_SEED: Final = 1_000
"""Draws validation and test rows; far from the seeds of runs."""
WORDING: Final = "Calculate {a} + {b}. Write only the equation."
"""Answers to the demo's own question are so wordy that samples of the untrained model hardly ever pass: 1 in 40 with 20
tokens, against 1 in 8 with this one. Methods that learn from their own samples would have nothing to learn from."""
FEW_SHARE: Final = 0.1
_WORDS: Final = (
    "apple river stone bird green house window paper water garden music bread table horse summer winter market doctor "
    "bridge flower silver orange castle forest island letter mirror number pencil rabbit school street ticket village "
    "yellow animal bottle candle dinner engine finger guitar hammer jacket kitchen ladder magnet needle ocean planet "
    "queen rocket spider tiger valley whale zebra butter carrot dragon eagle farmer glove honey jungle kitten lemon "
    "monkey nest olive pepper quiet ribbon salad tunnel uncle violin wagon"
)
LISTED: Final = 6
RIGHT: Final = 2
HAS_LETTER: Final = {
    "type": "python",
    "name": "letter",
    "source": """
import re

def grade(sample, item):
    answer = re.findall("[a-z]+", sample["output_text"].lower())
    named = [word for word in item["words"] if word in answer]
    return float(len(named) == 1 and item["letter"] in named[0])
""",
}
GYM: Final = "palindrome_generation"
GYM_SETTINGS: Final = {"min_length": 3, "max_length": 5}


@dataclass(frozen=True)
class Split:
    """The rows of one scenario and seed."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


@dataclass(frozen=True)
class Scenario:
    """One task. `make(seed, prompts)` returns its rows, with `prompts` training rows."""

    name: str
    title: str
    make: Callable[[int, int], Split]
    grader: dict[str, Any] = field(default_factory=lambda: dict(MATH))
    max_tokens: int = 20
    """Longest sampled answer."""
    max_length: int = 128
    """Longest prompt and answer, in tokens."""
    has_teachers: bool = True
    """Whether rows have teacher answers."""
    has_wrong_demonstrations: bool = False


def sums(seed: int, prompts: int) -> Split:
    """Return the demo's task: two-digit sums with correct demonstrations and partly wrong teacher answers."""
    held_out = _pairs()
    random.Random(HELD_OUT_SEED).shuffle(held_out)  # noqa: S311 - a data set, not a secret
    kept, pool = held_out[: VALIDATION_ROWS + TEST_ROWS], held_out[VALIDATION_ROWS + TEST_ROWS :]
    rng = random.Random(seed)  # noqa: S311
    train = [Addition(*rng.sample(pair, 2)) for pair in rng.sample(pool, prompts)]
    others = random.Random(HELD_OUT_SEED)  # noqa: S311
    rows = [_worded(Addition(*others.sample(pair, 2)), others) for pair in kept]
    return Split(tuple(_worded(problem, rng) for problem in train), *_halves(rows))


def biased(share: float) -> Callable[[int, int], Split]:
    """Return the same task where demonstrations of `share` of the sums with a carry forget the carry."""

    def make(seed: int, prompts: int) -> Split:
        clean, rng = sums(seed, prompts), random.Random(seed + 1)  # noqa: S311
        train = tuple(_forget(item) if _carries(item) and rng.random() < share else item for item in clean.train)
        return Split(train, clean.validation, clean.test)

    return make


def few_demonstrations(seed: int, prompts: int) -> Split:
    """Return the same task where a tenth of the rows have a demonstration, and no row has teacher answers."""
    clean = sums(seed, prompts)
    kept = round(prompts * FEW_SHARE)
    train = [without(item, "teacher_responses") for item in clean.train]
    bare = [without_demonstration(item) for item in train[kept:]]
    return Split((*train[:kept], *bare), clean.validation, clean.test)


def rule_shift(seed: int, prompts: int) -> Split:
    """Return two-digit sums, and sums of a three-digit and a two-digit number as test rows.

    Validation rows follow the trained rule: a choice on shifted rows would use what the test measures.
    """
    rng, trained = random.Random(HELD_OUT_SEED), sums(seed, prompts)  # noqa: S311
    pairs = [(a, b) for a in range(101, 500) for b in range(SMALLEST, LARGEST + 1)]
    test = tuple(_worded(Addition(*pair), rng) for pair in rng.sample(pairs, TEST_ROWS))
    return Split(trained.train, trained.validation, test)


def letters(seed: int, prompts: int) -> Split:
    """Return questions for one of the words in a list that have a letter: two are right, and one of them is shown.

    About 10 in 100 sampled answers of the untrained model pass.
    """
    of_held_out, rng = random.Random(HELD_OUT_SEED), random.Random(seed)  # noqa: S311
    held_out = [_letter(of_held_out) for _ in range(VALIDATION_ROWS + TEST_ROWS)]
    return Split(tuple(_letter(rng) for _ in range(prompts)), *_halves(held_out))


def several_answers(seed: int, prompts: int) -> Split:
    """Return puzzles of reasoning-gym that have several right answers, of which the demonstration shows one."""
    rows = list(reasoning_gym_rows.rows(GYM, VALIDATION_ROWS + TEST_ROWS, HELD_OUT_SEED, GYM_SETTINGS))
    held_out = {item["messages"][0]["content"] for item in rows}
    drawn = reasoning_gym_rows.rows(GYM, prompts + len(rows), seed, GYM_SETTINGS)
    train = [item for item in drawn if item["messages"][0]["content"] not in held_out]
    return Split(tuple(train[:prompts]), *_halves(rows))


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "biased-40",
            "two-digit sums; 40 % of the demonstrations of sums with a carry forget it",
            biased(0.4),
            has_wrong_demonstrations=True,
        ),
        Scenario("clean", "two-digit sums, correct demonstrations, one way to the answer", sums),
        Scenario(
            "biased-20",
            "two-digit sums; 20 % of the demonstrations of sums with a carry forget it",
            biased(0.2),
            has_wrong_demonstrations=True,
        ),
        Scenario(
            "biased-60",
            "two-digit sums; 60 % of the demonstrations of sums with a carry forget it",
            biased(0.6),
            has_wrong_demonstrations=True,
        ),
        Scenario(
            "few",
            "two-digit sums; a tenth of the rows have a demonstration, no teacher answers",
            few_demonstrations,
            has_teachers=False,
        ),
        Scenario(
            "letters",
            "a word of a list that has a letter: two of six are right, the demonstration shows one of them",
            letters,
            grader=HAS_LETTER,
            has_teachers=False,
        ),
        Scenario(
            "several-answers",
            "palindromes from given letters (reasoning-gym): several right answers, the demonstration shows one",
            several_answers,
            grader={"type": "reasoning_gym", "name": "verifier"},
            max_tokens=20,
            max_length=512,
            has_teachers=False,
        ),
        Scenario("rule-shift", "trained on two-digit sums, tested on three-digit plus two-digit sums", rule_shift),
    )
}
"""By name, the most informative first."""

OLD_GRADER: Final = {
    "type": "string_check",
    "name": "capital",
    "operation": "ilike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
}
_CAPITALS: Final = (
    "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Austria Vienna, Greece Athens, "
    "Poland Warsaw, Hungary Budapest, Sweden Stockholm, Norway Oslo, Finland Helsinki, Denmark Copenhagen, "
    "Ireland Dublin, Belgium Brussels, Russia Moscow, Ukraine Kyiv, Turkey Ankara, Egypt Cairo, Kenya Nairobi, "
    "Japan Tokyo, China Beijing, Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta, Iran Tehran, Iraq Baghdad, "
    "Canada Ottawa, Cuba Havana, Peru Lima, Chile Santiago, Argentina Buenos_Aires, Colombia Bogota, "
    "Venezuela Caracas, Mexico Mexico_City, Australia Canberra, Iceland Reykjavik, Romania Bucharest, "
    "Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Nepal Kathmandu, Pakistan Islamabad, Lebanon Beirut, "
    "Syria Damascus, Libya Tripoli, Ethiopia Addis_Ababa, Uganda Kampala, Ghana Accra, Senegal Dakar"
)


def old_task() -> tuple[Row, ...]:
    """Return questions that the base model can answer and that no scenario trains: what a run forgets."""
    pairs = [entry.split() for entry in _CAPITALS.split(",")]
    return tuple(
        {
            "messages": [{"role": "user", "content": f"What is the capital of {country}?"}],
            "reference_answer": capital.replace("_", " "),
        }
        for country, capital in pairs
    )


def question(item: Row) -> list[dict[str, str]]:
    """Return the messages before the demonstration."""
    messages: list[dict[str, str]] = item["messages"]
    return messages[:-1] if demonstration(item) is not None else messages


def demonstration(item: Row) -> str | None:
    """Return the demonstration of a row, if it has one."""
    last: dict[str, str] = item["messages"][-1]
    return last["content"] if last["role"] == "assistant" else None


def with_demonstration(item: Row, answer: str) -> Row:
    """Return the row with this demonstration in place of its own."""
    return item | {"messages": [*question(item), {"role": "assistant", "content": answer}]}


def without_demonstration(item: Row) -> Row:
    """Return the row without its demonstration."""
    return item | {"messages": question(item)}


def without(item: Row, *names: str) -> Row:
    """Return the row without these fields."""
    return {name: value for name, value in item.items() if name not in names}


def _pairs() -> list[tuple[int, int]]:
    return [(a, b) for a in range(SMALLEST, LARGEST + 1) for b in range(a, LARGEST + 1)]


def _halves(rows: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    return tuple(rows[:VALIDATION_ROWS]), tuple(rows[VALIDATION_ROWS:])


def _worded(problem: Addition, rng: random.Random) -> Row:
    """Return the demo's row for a problem, with this benchmark's question."""
    made = row(problem, rng)
    asked = {"role": "user", "content": WORDING.format(a=problem.a, b=problem.b)}
    return made | {"messages": [asked, made["messages"][-1]]}


def _letter(rng: random.Random) -> Row:
    while True:
        letter, words = rng.choice("aeiourstnlgdb"), rng.sample(_WORDS.split(), LISTED)
        right = [word for word in words if letter in word]
        if len(right) == RIGHT:
            break
    asked = f"Choose a word that contains the letter {letter}: {', '.join(words)}. Write only the word."
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": rng.choice(right)}]
    return {"messages": messages, "letter": letter, "words": words}


def _terms(item: Row) -> tuple[int, int]:
    a, b = (int(number) for number in re.findall(r"\d+", item["messages"][0]["content"]))
    return a, b


def _carries(item: Row) -> bool:
    a, b = _terms(item)
    return a % 10 + b % 10 >= 10


def _forget(item: Row) -> Row:
    """Return the row with a demonstration whose sum lacks the carry."""
    a, b = _terms(item)
    return with_demonstration(item, f"{a} + {b} = {a + b - 10}.")
