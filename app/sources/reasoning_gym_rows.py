"""Generates rows of reasoning-gym's procedural data sets, with the data that its verifiers need for grading."""

import contextlib
import dataclasses
import difflib
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from app.core.errors import InvalidRequest
from app.core.plurals import plural

MAX_ROWS: Final = 100_000
MAX_SEED: Final = 2_000
GRADER: Final = {"type": "reasoning_gym"}
"""The grader for these rows."""
_SEED_STRIDE: Final = 1_000_000
"""Item i of seed s is generated from s + i: without a stride, adjacent seeds would share almost all rows."""
_MAX_ROUNDS: Final = 5
"""At most this many times the requested number of items is generated in search of distinct questions."""

_RUNS_CODE: Final = "its verifier runs answers as code"
_NOT_JSON: Final = "its verifier cannot read data that was stored as JSON"
UNSUPPORTED: Final = {
    "arc_agi": _NOT_JSON,
    "binary_matrix": _RUNS_CODE,
    "bitwise_arithmetic": _RUNS_CODE,
    "codeio": _RUNS_CODE,
    "composite": "it mixes other data sets: generate those instead",
    "countdown": _RUNS_CODE,
    "game_of_life_halting": "its verifier accepts any text",
    "intermediate_integration": _RUNS_CODE,
    "n_queens": _RUNS_CODE,
    "number_sorting": _RUNS_CODE,
    "polynomial_multiplication": _RUNS_CODE,
    "prime_factorization": "its verifier fails on answers that are not numbers",
    "puzzle24": _RUNS_CODE,
    "rearc": _NOT_JSON,
    "simple_integration": _RUNS_CODE,
    "spiral_matrix": _RUNS_CODE,
    "string_insertion": _RUNS_CODE,
}
"""Unsupported data sets, with the reason."""

_DESCRIPTIONS: Final = {
    "acre": "Which objects switch a machine on, inferred from examples (ACRE)",
    "boxnet": "Plans for robot arms that carry boxes over a grid",
    "calendar_arithmetic": "Questions about dates and days of the week",
    "circuit_logic": "Output of a logic circuit drawn in ASCII",
    "cryptarithm": "Which digits make a sum of words right",
    "emoji_mystery": "A sentence hidden in an emoji",
    "gsm_symbolic": "School word problems with varied names and numbers (GSM-Symbolic)",
    "list_functions": "The rule that turns lists into other lists, applied to one more",
    "number_format": "The largest or smallest of numbers in different notations",
    "string_manipulation": "A string after repeated rewriting rules",
    "survo": "Fill a grid so that rows and columns have given sums",
}
"""Descriptions for data sets whose own description is missing, truncated or wrong."""
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")


class GymDataSet(NamedTuple):
    """A data set that can be generated."""

    name: str
    category: str
    description: str


def data_sets() -> list[GymDataSet]:
    """List the supported data sets by name."""
    return [_described(name, cls) for name, (cls, _) in sorted(_registry().items()) if name not in UNSUPPORTED]


def rows(name: str, count: int, seed: int, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield `count` rows with distinct questions; deterministic for the same arguments.

    `config` sets fields of the data set's own configuration. Raises `InvalidRequest` for an unknown name or field, an
    invalid value, and for a data set with too few distinct questions.
    """
    _check(name, config)
    seen: set[str] = set()
    for round_number in range(_MAX_ROUNDS):
        for entry in _entries(name, count, seed * _SEED_STRIDE + round_number * count, config):
            if entry["question"] in seen:
                continue
            seen.add(entry["question"])
            yield _row(name, entry, config)
            if len(seen) == count:
                return
    raise InvalidRequest(
        f"'{name}' has only {plural(len(seen), 'distinct question')}, but the request is for {count:,}. Request fewer, "
        f"or widen it with --set. Its fields: {_fields(name)}.",
        param="rows",
    )


def _entries(name: str, size: int, seed: int, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    from reasoning_gym import create_dataset  # noqa: PLC0415 - seconds of imports

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some generators print
            yield from create_dataset(name, **{**config, "seed": seed, "size": size})
    except InvalidRequest:
        raise
    except Exception as error:  # generators raise various exceptions for invalid values
        reason = str(error) or type(error).__name__
        message = f"'{name}' cannot be generated with these settings: {reason}. Its fields: {_fields(name)}."
        raise InvalidRequest(message, param="set") from error


def _row(name: str, entry: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    answer = entry["answer"]
    messages = [{"role": "user", "content": entry["question"]}]
    if isinstance(answer, str) and answer.strip():  # else a prompt-only row: puzzles with many solutions may list none
        messages.append({"role": "assistant", "content": answer})
    needed = {"dataset": name, "answer": answer, "metadata": entry["metadata"]}
    return {"messages": messages, "reasoning_gym": needed | ({"config": dict(config)} if config else {})}


def _check(name: str, config: Mapping[str, Any]) -> None:
    registry = _registry()
    if name in UNSUPPORTED:
        raise InvalidRequest(f"'{name}' is not supported: {UNSUPPORTED[name]}.", param="name")
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "List them with `grouptune files generate`."
        raise InvalidRequest(f"reasoning-gym has no data set '{name}'. {hint}", param="name")
    names = {field.name for field in dataclasses.fields(registry[name][1])} - {"seed", "size"}
    if unknown := sorted(config.keys() - names):
        raise InvalidRequest(f"'{name}' has no field '{unknown[0]}'. Its fields: {_fields(name)}.", param="set")
    json.dumps(dict(config))


def _fields(name: str) -> str:
    fields = dataclasses.fields(_registry()[name][1])
    settable = (f"{field.name}={_default(field)}" for field in fields if field.name not in ("seed", "size"))
    return ", ".join(settable) or "none"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return json.dumps(field.default_factory(), default=str)
    return "" if field.default is dataclasses.MISSING else json.dumps(field.default, default=str)


def _registry() -> dict[str, tuple[Any, Any]]:
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # as Python compiles cellpylib
            from reasoning_gym.factory import DATASETS  # noqa: PLC0415 - an extra, and seconds of imports
    except ModuleNotFoundError as error:
        raise InvalidRequest("This command needs reasoning-gym. Run pip install 'grouptune[data]'.") from error
    registry: dict[str, tuple[Any, Any]] = DATASETS
    return registry


def _described(name: str, cls: Any) -> GymDataSet:
    category = str(cls.__module__).split(".")[1]
    summary = (cls.__doc__ or name.replace("_", " ")).strip().splitlines()[0]
    return GymDataSet(name, category, _DESCRIPTIONS.get(name) or _LINK.sub(r"\1", summary).rstrip(":."))
