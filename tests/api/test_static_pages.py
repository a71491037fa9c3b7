"""Headers of the documentation's files, and its answers when a page or the whole build is missing."""

from pathlib import Path

import httpx
import pytest

from app.api import static_pages
from tests.api.server import Server


def test_files_have_their_type_and_policy(server: Server) -> None:
    for path, kind in (("", "text/html"), ("jobs.html", "text/html"), ("search.json", "application/json")):
        answer = httpx.get(f"{server.url}/docs/{path}", headers={"accept-encoding": "gzip"})
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip"), path
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["content-security-policy"] == static_pages.POLICY
    plain = httpx.get(f"{server.url}/docs/jobs.html", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert "<h1" in plain.text


@pytest.mark.parametrize(
    "path", ["nowhere.html", "adr", "..%2fbuild.py", "..%2f..%2fmain.py", "%00", "x" * 300, "api/index.html"]
)
def test_missing_page_is_404(server: Server, path: str) -> None:
    answer = httpx.get(f"{server.url}/docs/{path}")
    assert (answer.status_code, answer.text) == (404, static_pages.NO_PAGE)


def test_unbuilt_docs_say_how_to_build(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(static_pages, "SITE", tmp_path / "dist")
    answer = httpx.get(f"{server.url}/docs/")
    assert (answer.status_code, answer.text) == (503, static_pages.DOCS_NOT_BUILT)
    assert "make web" in answer.text
    assert httpx.get(f"{server.url}/docs/api/").headers["content-type"].startswith("text/html")
