"""What an installation of this project brings along, by the metadata of what is installed here."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def closure(*extras: str) -> set[str]:
    """Names of all distributions that `grouptune[EXTRAS]` installs."""
    offered: dict[str, list[str]] = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in offered[extra])]
    todo, seen = [Requirement(text) for text in texts], set()
    names: set[str] = set()
    while todo:
        one = todo.pop()
        found = str(canonicalize_name(one.name)), frozenset(one.extras)
        if found in seen:
            continue
        seen.add(found)
        if one.name == PROJECT["name"]:
            todo += [Requirement(text) for extra in one.extras for text in offered[extra]]
            continue
        names.add(found[0])
        todo += _wanted(*found)
    return names


def _wanted(name: str, extras: frozenset[str]) -> list[Requirement]:
    """What a distribution with these extras asks for; nothing is known of one that is not installed here."""
    try:
        found = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return []
    asked = [{"extra": extra} for extra in {"", *extras}]
    return [one for one in found if one.marker is None or any(map(one.marker.evaluate, asked))]
