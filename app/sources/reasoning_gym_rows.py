"""Rows of reasoning-gym's procedural data sets, with what its verifiers need to grade answers to them."""

import contextlib
import dataclasses
import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from app.core.errors import InvalidRequest

MAX_ROWS: Final = 100_000
MAX_SEED: Final = 2_000
GRADER: Final = {"type": "reasoning_gym"}
"""Grades answers to these rows."""
_SEED_STRIDE: Final = 1_000_000
"""Item i of seed s is made from s + i: without a stride, neighbouring seeds would share nearly all rows."""
_ROUNDS: Final = 5
"""So many times the wanted number of items is looked at for distinct questions."""

_RUNS_CODE: Final = "its verifier runs answers as code"
_NOT_JSON: Final = "its verifier cannot read what was written as JSON"
NOT_OFFERED: Final = {
    "arc_agi": _NOT_JSON,
    "binary_matrix": _RUNS_CODE,
    "bitwise_arithmetic": _RUNS_CODE,
    "codeio": _RUNS_CODE,
    "composite": "it mixes others: generate those",
    "countdown": _RUNS_CODE,
    "game_of_life_halting": "its verifier pays for any text",
    "intermediate_integration": _RUNS_CODE,
    "n_queens": _RUNS_CODE,
    "number_sorting": _RUNS_CODE,
    "polynomial_multiplication": _RUNS_CODE,
    "prime_factorization": "its verifier fails on answers that are no numbers",
    "puzzle24": _RUNS_CODE,
    "rearc": _NOT_JSON,
    "simple_integration": _RUNS_CODE,
    "spiral_matrix": _RUNS_CODE,
    "string_insertion": _RUNS_CODE,
}
"""Data sets that are left out, and why."""

_DESCRIPTIONS: Final = {
    "acre": "Which objects switch a machine on, told from examples (ACRE)",
    "boxnet": "Plans for robot arms that carry boxes over a grid",
    "calendar_arithmetic": "Questions about dates and days of the week",
    "circuit_logic": "Output of a logic circuit that is drawn in ASCII",
    "cryptarithm": "Which digits make a sum of words right",
    "emoji_mystery": "A sentence that is hidden in an emoji",
    "gsm_symbolic": "School word problems with other names and numbers (GSM-Symbolic)",
    "list_functions": "The rule that turns lists into other lists, applied to one more",
    "number_format": "The largest or smallest of numbers that are written in different ways",
    "string_manipulation": "A string after rewriting rules were applied again and again",
    "survo": "Fills a grid so that rows and columns have given sums",
}
"""Of data sets whose own description is missing, cut off or another one's."""
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")


class DataSet(NamedTuple):
    """A data set that can be generated."""

    name: str
    category: str
    description: str


def data_sets() -> list[DataSet]:
    """All that are offered, by name."""
    return [_described(name, cls) for name, (cls, _) in sorted(_registry().items()) if name not in NOT_OFFERED]


def rows(name: str, count: int, seed: int, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`count` rows with distinct questions, the same for the same arguments; other seeds give other rows.

    `config` sets fields of the data set's own configuration. Raises `InvalidRequest` for an unknown name or field, a
    value that does not fit, and when there are not so many distinct questions.
    """
    _check(name, config)
    seen: set[str] = set()
    for round_number in range(_ROUNDS):
        for entry in _entries(name, count, seed * _SEED_STRIDE + round_number * count, config):
            if entry["question"] in seen:
                continue
            seen.add(entry["question"])
            yield _row(name, entry, config)
            if len(seen) == count:
                return
    raise InvalidRequest(
        f"'{name}' gave {len(seen):,} distinct questions where {count:,} are wanted: ask for fewer rows, or widen it "
        f"with --set; its fields: {_fields(name)}.",
        param="rows",
    )


def _entries(name: str, size: int, seed: int, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    from reasoning_gym import create_dataset  # noqa: PLC0415 - seconds of imports

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some print
            yield from create_dataset(name, **{**config, "seed": seed, "size": size})
    except InvalidRequest:
        raise
    except Exception as error:  # whatever a generator raises for values that do not fit
        told = str(error) or type(error).__name__
        message = f"'{name}' cannot be generated so: {told}. Its fields: {_fields(name)}."
        raise InvalidRequest(message, param="set") from error


def _row(name: str, entry: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    answer = entry["answer"]
    messages = [{"role": "user", "content": entry["question"]}]
    if isinstance(answer, str) and answer.strip():  # puzzles with many solutions may know none: prompt-only rows
        messages.append({"role": "assistant", "content": answer})
    needed = {"dataset": name, "answer": answer, "metadata": entry["metadata"]}
    return {"messages": messages, "reasoning_gym": needed | ({"config": dict(config)} if config else {})}


def _check(name: str, config: Mapping[str, Any]) -> None:
    registry = _registry()
    if name in NOT_OFFERED:
        raise InvalidRequest(f"'{name}' is not offered: {NOT_OFFERED[name]}.", param="name")
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "list them: grouptune files generate"
        raise InvalidRequest(f"reasoning-gym has no data set '{name}'; {hint}", param="name")
    known = {field.name for field in dataclasses.fields(registry[name][1])} - {"seed", "size"}
    if unknown := sorted(config.keys() - known):
        raise InvalidRequest(f"'{name}' has no field '{unknown[0]}'; it has: {_fields(name)}.", param="set")
    json.dumps(dict(config))


def _fields(name: str) -> str:
    fields = dataclasses.fields(_registry()[name][1])
    shown = (f"{one.name}={_default(one)}" for one in fields if one.name not in ("seed", "size"))
    return ", ".join(shown) or "none"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return json.dumps(field.default_factory(), default=str)
    return "" if field.default is dataclasses.MISSING else json.dumps(field.default, default=str)


def _registry() -> dict[str, tuple[Any, Any]]:
    try:
        from reasoning_gym.factory import DATASETS  # noqa: PLC0415 - an extra, and seconds of imports
    except ModuleNotFoundError as error:
        raise InvalidRequest("This needs reasoning-gym: pip install 'grouptune[data]'.") from error
    found: dict[str, tuple[Any, Any]] = DATASETS
    return found


def _described(name: str, cls: Any) -> DataSet:
    category = str(cls.__module__).split(".")[1]
    own = (cls.__doc__ or name.replace("_", " ")).strip().splitlines()[0]
    return DataSet(name, category, _DESCRIPTIONS.get(name) or _LINK.sub(r"\1", own).rstrip(":."))
