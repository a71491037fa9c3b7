"""Sentences about what the intervals show. Each word is computed: `better`, `worse` or `level`."""

from collections.abc import Iterator

from bench.evidence.cells import Cell, against, drift_against
from bench.evidence.intervals import BETTER, LEVEL, WORSE, Estimate, verdict

CLAIMS = {
    BETTER: "{new} is better than {old}",
    WORSE: "{new} is worse than {old}",
    LEVEL: "{new} is level with {old}",
}
MOVES = {
    BETTER: "{new} moves less far from the base model than {old}",
    WORSE: "{new} moves further from the base model than {old}",
    LEVEL: "{new} is level with {old} in its distance from the base model",
}
QUESTIONS = (
    ("gft", "sft"),
    ("gft", "sft-graded"),
    ("gft", "rejection"),
    ("gft", "grpo"),
    ("gft", "gft-no-teacher"),
    ("gft-no-push-down", "gft"),
    ("sft-graded", "sft"),
    ("gft-graded", "sft-graded"),
    ("gft-tau-0", "gft"),
    ("gft-tau-1", "gft"),
    ("sft-gft-grpo", "sft-grpo"),
    ("gft-grpo", "sft-grpo"),
)
"""The comparisons that a conclusion answers, in this order: new method, old method."""


def accuracy_sentences(cells: dict[str, Cell | None]) -> list[str]:
    """Return a sentence for each question whose two methods have run."""
    return [sentence for new, old in _pairs(cells) if (sentence := _accuracy(new, old)) is not None]


def drift_sentences(cells: dict[str, Cell | None]) -> list[str]:
    """Return a sentence on the drift (forward KL) of each pair of methods that are level in accuracy."""
    return [sentence for new, old in _pairs(cells) if (sentence := _drift(new, old)) is not None]


def best(cells: dict[str, Cell | None]) -> str | None:
    """Return which methods no other one beats, the cheapest of them, and the one that drifts least."""
    known = [found for found in cells.values() if found is not None and len(found.runs) > 1]
    if len(known) < 2:
        return None
    first = max(known, key=lambda found: found.accuracy.mean)
    group = [found for found in known if found is first or _is_level(found, first)]
    names = ", ".join(found.method.label for found in group if found is not first)
    text = f"The highest mean is that of {first.method.label} ({first.accuracy.mean:.0%})"
    if not names:
        return f"{text}; every other method is worse."
    cheapest = min(group, key=lambda found: found.flops)
    nearest = min(group, key=lambda found: found.drift.mean)
    return (
        f"{text}. Level with it: {names}. Of these, {cheapest.method.label} takes the fewest operations and "
        f"{nearest.method.label} has the lowest forward KL ({nearest.drift.mean:.2f})."
    )


def points(found: Estimate) -> str:
    """Return a difference in percentage points with its interval."""
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.1f} (one seed)"
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _pairs(cells: dict[str, Cell | None]) -> Iterator[tuple[Cell, Cell]]:
    for names in QUESTIONS:
        new, old = (cells.get(name) for name in names)
        if new is not None and old is not None:
            yield new, old


def _accuracy(new: Cell, old: Cell) -> str | None:
    found = against(new, old)
    word = None if found is None else verdict(found)
    if found is None or word is None or found.low is None or found.high is None:
        return None
    claim = CLAIMS[word].format(new=new.method.label, old=old.method.label)
    return (
        f"{claim}: {100 * found.mean:+.1f} points (95 % {100 * found.low:+.1f} to {100 * found.high:+.1f}, "
        f"{found.seeds} seeds)."
    )


def _drift(new: Cell, old: Cell) -> str | None:
    accuracy, found = against(new, old), drift_against(new, old)
    if accuracy is None or found is None or verdict(accuracy) != LEVEL:
        return None
    word = verdict(found, more_is_better=False)
    if word is None or found.low is None or found.high is None:
        return None
    claim = MOVES[word].format(new=new.method.label, old=old.method.label)
    return f"{claim}: forward KL {found.mean:+.2f} (95 % {found.low:+.2f} to {found.high:+.2f}, {found.seeds} seeds)."


def _is_level(found: Cell, first: Cell) -> bool:
    difference = against(found, first)
    return difference is not None and verdict(difference) == LEVEL
