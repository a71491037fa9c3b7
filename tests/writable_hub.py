"""A real HTTP server with the part of the Hugging Face hub's protocol that pushing a model needs.

Repositories, preupload, LFS (batch, upload, verification) and commits, as `huggingface_hub` uses them without Xet.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

TOKEN: Final = "hf_may_write"  # noqa: S105 - of this server
LFS: Final = (".safetensors", ".gguf")
"""Endings of the files that the hub stores with LFS."""


@dataclass
class Repository:
    """The files at its newest commit."""

    private: bool
    card: dict[str, Any] | None = None
    """Metadata in its card."""
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


@dataclass
class Hub:
    """The state of the server. Tests read it, and set its faults."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by SHA-256."""
    url: str = ""
    loses: str | None = None
    """Name of a file that commits silently drop."""
    fault: tuple[str, int, str] | None = None
    """A part of a path whose requests get this status and body."""


@contextmanager
def writable_hub() -> Iterator[Hub]:
    """Serve an empty hub."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        if self.hub.fault and self.hub.fault[0] in path:
            return self._send_body(self.hub.fault[1], self.hub.fault[2].encode(), {"content-type": "text/plain"})
        if match := re.fullmatch(r"/upload/([0-9a-f]{64})", path):
            return self._store(match[1], body)
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        match = re.match(r"/api/models/([^/]+/[^/]+)", path)
        repository = self.hub.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return self._send(404, {"error": "Repository not found"}, {"x-error-code": "RepoNotFound"})
        return self._of(repository, match[1], path.removeprefix(match[0]), body)

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = Repository(private=wanted["visibility"] == "private")
        self._send(409 if exists else 200, {"url": f"{self.hub.url}/{name}", "error": "You already created this repo"})

    def _of(self, repository: Repository, name: str, path: str, body: bytes) -> None:
        if path.startswith("/preupload/"):
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if path.startswith("/commit/"):
            return self._commit(repository, name, [json.loads(line) for line in body.splitlines()])
        if path.startswith("/tree/"):
            return self._send(200, [_entry(name, data) for name, data in repository.files.items()])
        info = {"id": name, "sha": repository.commits[-1], "private": repository.private, "cardData": repository.card}
        return self._send(200, {**info, "siblings": [], "tags": [], "downloads": 0})

    def _batch(self, request: dict[str, Any]) -> None:
        objects = [
            {
                **one,
                "actions": {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}?signature=secret", "header": {}}},
            }
            for one in request["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _store(self, oid: str, data: bytes) -> None:
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self._send(200, {})

    def _commit(self, repository: Repository, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
        repository.files.pop(self.hub.loses or "", None)
        repository.commits.append(hashlib.sha1(repr(lines).encode(), usedforsecurity=False).hexdigest())
        oid = repository.commits[-1]
        self._send(200, {"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send_body(status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})})

    def _send_body(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entry(path: str, data: bytes) -> dict[str, Any]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": git, "size": len(data)}
    if path.endswith(LFS):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
