"""The client of the API: downloads over connections that break."""

from pathlib import Path

import pytest

from app.client import Client, ServerUnreachable
from tests.http_server import Received, Reply, http_server

CONTENT = b"0123456789"


def download(target: Path, broken: int, *, etag: str | None = '"one"', honours_ranges: bool = True) -> list[str]:
    """Download from a server that breaks the first `broken` connections after three bytes; return the ranges."""
    ranges: list[str] = []

    def answer(request: Received) -> Reply:
        ranges.append(request.headers.get("range", ""))
        start = int(ranges[-1].removeprefix("bytes=").removesuffix("-") or 0) if honours_ranges else 0
        rest = CONTENT[start:]
        headers = {} if etag is None else {"etag": etag}
        if len(ranges) <= broken:
            return Reply(rest[:3], 206 if start else 200, headers, announced=len(rest))
        return Reply(rest, 206 if start else 200, headers)

    counted: list[int] = []
    with http_server(answer) as url, Client(url, "key") as client:
        client.download("/x", target, progress=counted.append)
    if honours_ranges:
        assert sum(counted) == len(CONTENT)
    return ranges


def test_broken_download_resumes(tmp_path: Path) -> None:
    target = tmp_path / "x"
    assert download(target, broken=2) == ["", "bytes=3-", "bytes=6-"]
    assert target.read_bytes() == CONTENT


def test_changed_content_is_downloaded_as_a_whole(tmp_path: Path) -> None:
    """The server then ignores the range."""
    assert download(tmp_path / "x", broken=1, honours_ranges=False) == ["", "bytes=3-"]
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_download_without_etag_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable):
        download(tmp_path / "x", broken=1, etag=None)
