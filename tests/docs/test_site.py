"""The documentation site: every page is in its navigation, its links work, and it needs no other host."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import pytest

from app.site.build import DIST, SITE, rewrite_links, site_names
from tests.docs.named_tests import TESTS

BUILT: Final = sorted(DIST.rglob("*.html"))
LINK: Final = re.compile(r'(?:href|src)="([^"#]*)')
REFERENCE: Final = "api/"
"""The API serves this page, not the site."""


def entries(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation, depth first."""
    if isinstance(nav, str):
        yield nav
    else:
        for child in nav.values() if isinstance(nav, dict) else nav:
            yield from entries(child)


def test_navigation_has_every_page_once() -> None:
    nav = list(entries(tomllib.loads((SITE / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    assert sorted(nav) == sorted([REFERENCE, *(name for name in site_names().values() if name.endswith(".md"))])


@pytest.mark.parametrize(
    ("path", "text", "rewritten"),
    [
        ("docs/ci.md", "the [rules](../SECURITY.md) as", "the [rules](security.md) as"),
        ("docs/ci.md", "[gate](gates.md#metrics)", "[gate](gates.md#metrics)"),
        ("docs/adr/README.md", "([figures](../../bench/results/README.md#x))", "([figures](../benchmarks.md#x))"),
        ("CONTRIBUTING.md", "[decisions](docs/adr/README.md)", "[decisions](adr/README.md)"),
        ("bench/results/README.md", "[code](../peer_trl.py) and", "code and"),
        ("docs/ci.md", "[x](https://example.com/a)", "[x](https://example.com/a)"),
        ("docs/ci.md", "`rows[0](x)`", "`rows[0](x)`"),
        ("docs/ci.md", "[`files lint`](lint.md)", "[`files lint`](lint.md)"),
        ("docs/ci.md", "```py\nrows[0](x)\n```\n[a](x)", "```py\nrows[0](x)\n```\na"),
    ],
)
def test_links_point_into_the_site(path: str, text: str, rewritten: str) -> None:
    assert rewrite_links(text, path, site_names()) == rewritten


def test_mermaid_is_not_used() -> None:
    """The site would show its source: the program that draws it comes from another host."""
    pages = [TESTS.parent / path for path in site_names() if path.endswith(".md")]
    assert [page.name for page in pages if "```mermaid" in page.read_text(encoding="utf-8")] == []


def test_built_pages_are_complete() -> None:
    """Links lead to files of the site, scripts are files, and no page loads anything from elsewhere."""
    assert BUILT, "the documentation is not built: run make web"
    problems = []
    for page in BUILT:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", text), page
        for link in LINK.findall(text):
            target = page.parent / link
            found = target.is_file() or (target / "index.html").is_file() or not link
            if "://" not in link and not link.endswith(REFERENCE) and not found:
                problems.append((page.name, link))
        loaded = re.findall(r'<(?:script|img|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]*)"', text)
        problems += [(page.name, url) for url in loaded]
    assert problems == []


def test_built_pages_are_those_of_the_navigation() -> None:
    pages = {re.sub(r"README\.md$", "index.md", name) for name in site_names().values() if name.endswith(".md")}
    assert {page.relative_to(DIST).with_suffix(".md").as_posix() for page in BUILT} == pages


def test_search_covers_pages_but_not_their_history() -> None:
    """The changelog names every feature, so it would come before the page that describes it."""
    items = json.loads((DIST / "search.json").read_text(encoding="utf-8"))["items"]
    searched = {item["location"].partition("#")[0] for item in items}
    assert {page.relative_to(DIST).as_posix() for page in BUILT} - searched == {"changelog.html"}
