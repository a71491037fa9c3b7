"""A real HTTP server that speaks as much of the Hugging Face hub's protocol as reading a data set needs."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

_COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(data_sets: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """Its address (`HF_ENDPOINT`), while it serves these data sets: id -> path -> content."""
    serving = type("Serving", (_Handler,), {"data_sets": data_sets})
    server = ThreadingHTTPServer(("127.0.0.1", 0), serving)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    data_sets: ClassVar[Mapping[str, Mapping[str, bytes]]]

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        for name, files in self.data_sets.items():
            if path.startswith(f"/api/datasets/{name}"):
                return self._told(_api(name, files, path.removeprefix(f"/api/datasets/{name}"), body))
            if match := re.fullmatch(rf"/datasets/{name}/resolve/[^/]+/(.+)", path):
                return self._content(files.get(match[1]))
        return self._told(None)

    do_GET = do_HEAD = do_POST = answer

    def _told(self, value: Any) -> None:
        missing = json.dumps({"error": "Repository not found"}).encode()
        headers = {"x-error-code": "RepoNotFound"} if value is None else {}
        self._send(404 if value is None else 200, missing if value is None else json.dumps(value).encode(), headers)

    def _content(self, content: bytes | None) -> None:
        if content is None:
            return self._send(404, b"", {"x-error-code": "EntryNotFound"})
        headers = {"etag": f'"{_digest(content)}"', "x-repo-commit": _COMMIT, "accept-ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if asked is None:
            return self._send(200, content, headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["content-range"] = f"bytes {start}-{end}/{len(content)}"
        return self._send(206, content[start : end + 1], headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _api(name: str, files: Mapping[str, bytes], path: str, body: bytes) -> Any:
    """What the hub's API says of a data set at `path` below its own; None for 404."""
    if path == "" or path.startswith("/revision/"):
        siblings = [{"rfilename": one} for one in files]
        return {"id": name, "sha": _COMMIT, "private": False, "siblings": siblings, "tags": [], "downloads": 0}
    if path.startswith("/paths-info/"):
        asked = json.loads(body)["paths"] if body.startswith(b"{") else []
        return [entry for entry in _tree(files) if entry["path"] in asked]
    if match := re.fullmatch(r"/tree/[^/]+(?:/(.*))?", path):
        below = f"{match[1]}/" if match[1] else ""
        return [one for one in _tree(files) if one["path"].startswith(below) and "/" not in one["path"][len(below) :]]
    return None


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    folders = {path.rpartition("/")[0] for path in files if "/" in path}
    found: list[dict[str, Any]] = [{"type": "directory", "path": one, "oid": _COMMIT, "size": 0} for one in folders]
    return found + [
        {"type": "file", "path": path, "oid": _digest(content), "size": len(content)} for path, content in files.items()
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
