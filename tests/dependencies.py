"""The dependencies of this project, from the metadata of the packages installed here."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def closure(*extras: str) -> set[str]:
    """Return the names of all distributions that `grouptune[EXTRAS]` installs."""
    optional: dict[str, list[str]] = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in optional[extra])]
    queue, seen = [Requirement(text) for text in texts], set()
    names: set[str] = set()
    while queue:
        requirement = queue.pop()
        key = str(canonicalize_name(requirement.name)), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        if requirement.name == PROJECT["name"]:
            queue += [Requirement(text) for extra in requirement.extras for text in optional[extra]]
            continue
        names.add(key[0])
        queue += _requirements(*key)
    return names


def _requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    """Return what a distribution requires with these extras; nothing if it is not installed here."""
    try:
        requirements = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return []
    environments = [{"extra": extra} for extra in {"", *extras}]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments))
    ]
