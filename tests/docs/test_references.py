"""Links and module names in README and docs point to files that exist."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.named_tests import DOCS, TESTS

REPOSITORY: Final = TESTS.parent
PAGES: Final = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), REPOSITORY / "bench" / "results" / "README.md"])
DECISIONS: Final = sorted((DOCS / "adr").glob("0*.md"))
LINK: Final = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULE: Final = re.compile(r"`((?:app|worker|bench)(?:\.\w+)+)`")

IDENTIFIER: Final = re.compile(r"`(?:\w+\.)*([A-Z]\w+(?:\.\w+)?)(?:\(\))?`")
"""A class, a method of it, a constant or an environment variable."""


def is_module(name: str) -> bool:
    path = REPOSITORY.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    links = {link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link}
    assert {link for link in links if not (page.parent / link).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_modules_exist(page: Path) -> None:
    """A function or class may follow the module: `app.core.jobs.leases.claim`."""
    named = set(MODULE.findall(page.read_text(encoding="utf-8")))
    assert {name for name in named if not is_module(name) and not is_module(name.rpartition(".")[0])} == set()


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_decisions_name_existing_identifiers(page: Path) -> None:
    sources = [path for root in ("app", "worker") for path in (REPOSITORY / root).rglob("*.py")]
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    named = {part for name in IDENTIFIER.findall(page.read_text(encoding="utf-8")) for part in name.split(".")}
    settings = {name.removeprefix("GROUPTUNE_").lower() for name in named if name.startswith("GROUPTUNE_")}
    identifiers = {name for name in named if not name.startswith("GROUPTUNE_")}
    missing = identifiers - words
    missing |= {name for name in settings if name not in words and f"GROUPTUNE_{name.upper()}" not in words}
    assert missing == set()


def test_the_index_lists_every_decision() -> None:
    index = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    assert set(LINK.findall(index)) == {page.name for page in DECISIONS}
