"""The whole server below a path prefix, behind a proxy that strips the prefix, and behind one that keeps it."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from openai import AzureOpenAI, OpenAI
from pydantic import ValidationError

from app.core.settings import Settings
from tests.api.server import Server, serve, variant
from tests.reverse_proxy import reverse_proxy

PREFIX = "/team/tuning"
DOCS = ("docs/", "docs/jobs.html", "docs/adr/", "docs/api/")
LOADED = re.compile(r'<(?:script|img|link rel="(?:icon|stylesheet)")[^>]*? (?:src|href)="([^"]+)"')


@pytest.fixture(params=["stripped", "kept"])
def address(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the server behind a proxy. Only a proxy that keeps the prefix needs the setting `root_path`."""
    if request.param == "stripped":
        with reverse_proxy(server.url, PREFIX, strip=True) as address:
            yield address
    else:
        settings = variant(server.settings, root_path=PREFIX)
        with serve(settings) as url, reverse_proxy(url, PREFIX, strip=False) as address:
            yield address


def test_sdk_works_below_a_prefix(server: Server, address: str, rows: Path) -> None:
    with OpenAI(base_url=f"{address}/v1", api_key=server.api_key, max_retries=0) as client:
        file = client.files.create(file=rows, purpose="fine-tune")
        assert client.files.content(file.id).read() == rows.read_bytes()
        assert client.fine_tuning.jobs.create(model="tiny", training_file=file.id).training_file == file.id
    with AzureOpenAI(azure_endpoint=address, api_version="2025-04-01-preview", api_key=server.api_key) as azure:
        assert [job.training_file for job in azure.fine_tuning.jobs.list()] == [file.id]


@pytest.mark.parametrize("page", ["ui", "ui/", "ui/files", "ui/jobs/ftjob-1", "ui/jobs/ftjob-1/groups", *DOCS])
def test_pages_find_their_files(address: str, page: str) -> None:
    with httpx.Client() as http:
        answer = http.get(f"{address}/{page}")
        assert answer.status_code == 200
        files = [urljoin(str(answer.url), link) for link in LOADED.findall(answer.text)]
        assert len(files) >= 3
        for file in files:
            found = http.get(file)
            is_page = found.headers["content-type"].startswith("text/html")
            assert (found.status_code, is_page) == (200, False), file


def test_bare_address_leads_to_the_dashboard(address: str) -> None:
    answer = httpx.get(f"{address}/", follow_redirects=True)
    assert (answer.status_code, str(answer.url)) == (200, f"{address}/ui/")


@pytest.mark.parametrize(("old", "new"), [("docs", "docs/"), ("docs/api", "docs/api/")])
def test_documentation_has_a_slash(address: str, old: str, new: str) -> None:
    answer = httpx.get(f"{address}/{old}", follow_redirects=True)
    assert (answer.status_code, str(answer.url)) == (200, f"{address}/{new}")


def test_without_the_prefix_works_too(server: Server) -> None:
    """Probes and other programs on the machine reach the server directly."""
    with serve(variant(server.settings, root_path=PREFIX)) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}{PREFIX}/healthz").status_code == 200
        assert httpx.get(f"{url}{PREFIX}x/healthz").status_code == 404


def test_prefix_is_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for written, root_path in (("/gt", "/gt"), ("/a/b/", "/a/b"), ("", ""), ("/", "")):
        monkeypatch.setenv("GROUPTUNE_ROOT_PATH", written)
        assert Settings().root_path == root_path
    for broken in ("gt", "//gt", "/g t", "https://x.example/gt"):
        monkeypatch.setenv("GROUPTUNE_ROOT_PATH", broken)
        with pytest.raises(ValidationError):
            Settings()
