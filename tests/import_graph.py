"""Reads the imports of the three packages from their syntax trees. Contains no rules."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

ROOTS: Final = ("app", "worker", "migrations")


@dataclass(frozen=True)
class Import:
    """An import: the importing module, the imported module, and the line."""

    importer: str
    target: str
    line: int


def within(package: str, module: str) -> bool:
    """Whether a module is `package` itself or inside it."""
    return f"{module}.".startswith(f"{package}.")


def modules(root: Path) -> dict[str, Path]:
    """Return the path of every module of the three packages, by dotted name."""
    paths = {}
    for package in ROOTS:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def _imported_names(node: ast.AST, package: str) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name or None) for a node. `importlib.import_module("x")` counts as well."""
    match node:
        case ast.Import(names=names):
            yield from ((alias.name, None) for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            parts = package.split(".")
            base = parts[: len(parts) - level + 1] if level else []
            origin = ".".join([*base, *([module] if module else [])])
            yield from ((origin, alias.name) for alias in names)
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield name, None


@cache
def imports(root: Path) -> tuple[Import, ...]:
    """Return all imports except those of the standard library; including deferred and type-checking-only imports."""
    return tuple(_imports(root))


def _imports(root: Path) -> Iterator[Import]:
    paths = modules(root)
    for importer, path in paths.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            for module, name in _imported_names(node, package):
                target = f"{module}.{name}" if f"{module}.{name}" in paths else module
                if target.partition(".")[0] not in sys.stdlib_module_names:
                    yield Import(importer, target, getattr(node, "lineno", 0))


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return the modules of some cycle, or an empty list."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []
