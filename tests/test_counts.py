"""Counts agree with their nouns: texts use `plural`, so that none says "1 rows"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ("app/**/*.py", "worker/**/*.py", "app/dashboard/src/**/*.ts", "app/dashboard/src/**/*.tsx")
# Bytes, tokens and characters are left out: texts give limits and sizes in them, which are never 1.
_NOUNS: Final = (
    *("adapters", "answers", "attempts", "blobs", "calls", "cases", "checkpoints", "columns", "completions", "cores"),
    *("deliveries", "demonstrations", "endpoints", "epochs", "errors", "events", "examples", "exports", "failures"),
    *("fields", "files", "findings", "gates", "GPUs", "grades", "groups", "jobs", "keys", "lines", "messages"),
    *("models", "pairs", "parts", "processes", "projects", "prompts", "questions", "records", "requests", "rollouts"),
    *("rows", "samples", "steps", "tables", "threads", "tries", "warnings", "workers"),
)
_NOUN: Final = re.compile(rf" (?:[a-z-]+ )?(?:{'|'.join(_NOUNS)})\b(?!=)")
_IN_TYPESCRIPT: Final = re.compile(r"\{([^{}]+)\}")
"""A value in a template literal or JSX that contains no braces."""
_CONSTANT: Final = re.compile(r"(?:\w+\.)*_?[A-Z][A-Z_0-9]+")
_MEASURE: Final = re.compile(r"[.%eg]")
"""In a format specification: the value is a share or a measurement."""
_VERBS: Final = (" has ", " have ", " of ", " as ", " with ", " and ", " in ")


def counts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each value that stands directly before a plural noun; constants are left out."""
    find = _python_counts if path.suffix == ".py" else _typescript_counts
    for line, value, noun in find(path.read_text(encoding="utf-8")):
        if not _CONSTANT.fullmatch(value) and not noun.startswith(_VERBS):
            yield line, f"{{{value}}}{noun}"


def _python_counts(source: str) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            form = "" if value.format_spec is None else ast.unparse(value.format_spec)
            noun = _NOUN.match(str(text.value))
            if noun and value.conversion == -1 and not _MEASURE.search(form.removeprefix("f")):
                yield value.lineno, ast.unparse(value.value), noun[0]


def _typescript_counts(source: str) -> Iterator[tuple[int, str, str]]:
    for value in _IN_TYPESCRIPT.finditer(source):
        if noun := _NOUN.match(source, value.end()):
            yield source.count("\n", 0, value.start()) + 1, value[1], noun[0]


def hits(root: Path) -> list[str]:
    """Return each count with a fixed plural as `file:line: text`."""
    paths = sorted(path for pattern in SOURCES for path in root.glob(pattern) if path.name != "schema.d.ts")
    return [f"{path.relative_to(root).as_posix()}:{line}: {text}" for path in paths for line, text in counts(path)]


def test_counts_have_plurals() -> None:
    lines = hits(ROOT)
    assert not lines, "Write these counts with `plural(count, noun)`:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("app/a.py", 'x = 1\ny = (\n    f"read {len(x):,} "\n    f"held-out rows"\n)\n', "3: {len(x)} held-out rows"),
        ("app/a.py", 'f"{MAX_ROWS:,} rows, {share:.0%} rows, {name!r} rows, {plural(n, 1)}, {job} has steps"', None),
        ("app/dashboard/src/a.tsx", "<p>\n{jobs.length} finished jobs</p>", "2: {jobs.length} finished jobs"),
        ("app/dashboard/src/a.ts", "`${total} rows`", "1: {total} rows"),
        ("app/dashboard/src/a.tsx", '<Row a={a} rows={2} /> {plural(n, "row")} {MOST} rows', None),
    ],
)
def test_planted_counts_are_reported(tmp_path: Path, name: str, source: str, expected: str | None) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert hits(tmp_path) == ([] if expected is None else [f"{name}:{expected}"])
