"""The repository is written in plain English: words and phrases that signal an unclear sentence do not occur.

A hit means that the sentence needs a rewrite, not just another word: subject, verb, object, and the nouns of the field.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SUFFIXES: Final = {".py", ".ts", ".tsx", ".md", ".yaml", ".yml"}
EXEMPT: Final = {Path(__file__).relative_to(ROOT).as_posix()}
"""This file defines the list."""
THIRD_PARTY: Final = re.compile(r"(LICENSE|LICENCE|NOTICE|COPYING)", re.IGNORECASE)
"""Names of files whose text is not ours."""
NOT_SOURCES: Final = {"node_modules", "dist", "build", "__pycache__"}
"""Directories that are skipped without git, in addition to hidden ones."""

FORBIDDEN: Final = (
    *("told", "tells", "anew", "whom", "whoever", "hear", "hears", "heard", "mend", "mends", "nobody", "somebody"),
    *("meanwhile", "beside", "goes on", "went on", "so many", "is there to", "are there to", "what becomes of"),
    *("what came of", "stays to be", "as it is now", "said of", "asked for again", "that there is"),
)
# `\b` would treat an underscore as part of a word and miss identifiers, so letters and digits are excluded instead.
# A phrase may be split by a line break and the comment sign of the next line, or by underscores.
_PATTERN: Final = re.compile(
    r"(?<![a-z0-9])("
    + "|".join(r"[\s_#*/]+".join(map(re.escape, phrase.split())) for phrase in FORBIDDEN)
    + r")(?![a-z0-9])",
    re.IGNORECASE,
)


def sources(root: Path) -> Iterator[Path]:
    """Yield the text files under git's control, or without a repository those that are not hidden or built."""
    if (root / ".git").exists():
        # In CI another user often owns the checkout; git would refuse to read it.
        command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        paths = [root / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in sorted(root.rglob("*")) if not _is_skipped(path.relative_to(root))]
    for path in paths:
        if path.suffix in SUFFIXES and path.is_file() and not THIRD_PARTY.match(path.name):
            yield path


def _is_skipped(path: Path) -> bool:
    return any(part in NOT_SOURCES or part.startswith(".") for part in path.parts)


def hits(root: Path) -> list[str]:
    """Return each forbidden word in the sources as `file:line: word`."""
    lines = []
    for path in sources(root):
        name = path.relative_to(root).as_posix()
        if name in EXEMPT:
            continue
        text = path.read_text(encoding="utf-8")
        for match in _PATTERN.finditer(text):
            words = " ".join(re.findall(r"[a-z]+", match[0].lower()))
            lines.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {words}")
    return lines


def test_no_forbidden_words() -> None:
    lines = hits(ROOT)
    assert not lines, "Rewrite these sentences and names in plain English:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Retries the request.\nNobody listens.\n", ["page.md:2: nobody"]),
        ("def tell_whom(): ...\n", ["page.md:1: whom"]),
        ("except Failure as TOLD:\n", ["page.md:1: told"]),
        ("    # The job goes\n    # on later.\n", ["page.md:1: goes on"]),
        ("so_many = 3; x = 'anew'\n", ["page.md:1: so many", "page.md:1: anew"]),
        ("Recommended besides; renewable, shear, told-off2\n", ["page.md:1: told"]),
        ("Recommended besides; renewable, shear, toldoth, told2\n", []),
    ],
)
def test_planted_words_are_reported(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    (tmp_path / "picture.svg").write_text("told", encoding="utf-8")
    (tmp_path / "LICENSE.md").write_text("to whom", encoding="utf-8")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "readme.md").write_text("told", encoding="utf-8")
    assert hits(tmp_path) == expected


def test_untracked_files_are_ignored(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("tracked.py", "untracked.py"):
        (tmp_path / name).write_text("told = 1\n", encoding="utf-8")
    subprocess.run(["git", "add", "tracked.py"], cwd=tmp_path, check=True)
    assert hits(tmp_path) == ["tracked.py:1: told"]
