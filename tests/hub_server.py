"""A real HTTP server with the part of the Hugging Face hub's protocol that reading a data set or a model needs."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(
    data_sets: Mapping[str, Mapping[str, bytes]], models: Mapping[str, Mapping[str, bytes]] | None = None
) -> Iterator[str]:
    """Serve these data sets and models (id -> path -> content); yield the address for `HF_ENDPOINT`."""
    kinds = (("datasets/", data_sets), ("", models or {}))
    repositories = {f"{kind}{name}": files for kind, named in kinds for name, files in named.items()}
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
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
    repositories: ClassVar[Mapping[str, Mapping[str, bytes]]]

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        for name, files in self.repositories.items():
            api = f"/api/{name if name.startswith('datasets/') else f'models/{name}'}"
            if path.startswith(api):
                return self._send_json(_api(name, files, path.removeprefix(api), body))
            if match := re.fullmatch(rf"/{name}/resolve/(?:main|{COMMIT})/(.+)", path):
                return self._send_content(files.get(match[1]))
        return self._send_json(None)

    do_GET = do_HEAD = do_POST = respond

    def _send_json(self, value: Any) -> None:
        missing = json.dumps({"error": "Repository not found"}).encode()
        headers = {"x-error-code": "RepoNotFound"} if value is None else {}
        self._send(404 if value is None else 200, missing if value is None else json.dumps(value).encode(), headers)

    def _send_content(self, content: bytes | None) -> None:
        if content is None:
            return self._send(404, b"", {"x-error-code": "EntryNotFound"})
        headers = {"etag": f'"{_digest(content)}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if requested is None:
            return self._send(200, content, headers)
        start, end = int(requested[1]), min(int(requested[2] or len(content)), len(content) - 1)
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
    """Return the hub API's response for a data set; `path` is relative to the data set's own, None means 404."""
    if path == "" or path.startswith("/revision/"):
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        facts = {"id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
        return facts | {"siblings": siblings, "cardData": {"license": "mit"}}
    if path.startswith("/paths-info/"):
        requested = json.loads(body)["paths"] if body.startswith(b"{") else []
        return [entry for entry in _tree(files) if entry["path"] in requested]
    if match := re.fullmatch(r"/tree/[^/]+(?:/(.*))?", path):
        folder = f"{match[1]}/" if match[1] else ""
        return [
            entry
            for entry in _tree(files)
            if entry["path"].startswith(folder) and "/" not in entry["path"].removeprefix(folder)
        ]
    return None


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    folders = {path.rpartition("/")[0] for path in files if "/" in path}
    entries: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": COMMIT, "size": 0} for path in folders]
    return entries + [
        {"type": "file", "path": path, "oid": _digest(content), "size": len(content)} for path, content in files.items()
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
