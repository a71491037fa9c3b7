"""kill -9 of the API during an upload: the file is absent, or complete with the right hash."""

import hashlib
import random
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy import select

from app.core.files.tables import File
from app.core.settings import Settings
from app.main import create_app
from tests import forked
from tests.api.server import Server
from tests.http_server import free_port
from tests.waiting import eventually

KILLS = 4
BOUNDARY = "between"
CHUNK_BYTES = 16_384


def serve(settings: dict[str, Any], port: int) -> None:
    configuration = Settings.model_validate(settings)
    uvicorn.run(create_app(configuration), host="127.0.0.1", port=port, log_level="warning")


def body_of(content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    head += f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def settings_of(server: Server) -> dict[str, Any]:
    """Return settings for a server process of its own on the same installation, with a higher file limit."""
    values = server.settings.model_dump(mode="json", exclude_none=True, exclude={"secret_keys", "database_url"})
    return values | {"DATABASE_URL": server.settings.database_url, "max_file_bytes": 8 << 20}


def upload_and_kill(server: Server, share: float, content: bytes) -> bool:
    """Send `share` of an upload to an API process and kill it; return whether a response arrived before."""
    port, answers = free_port(), []
    process = forked.start(serve, settings_of(server), port)
    try:
        eventually(lambda: listens(port))
        body = body_of(content)
        sent, gone = threading.Event(), threading.Event()

        def parts() -> Any:
            for start in range(0, int(len(body) * share), CHUNK_BYTES):
                yield body[start : min(start + CHUNK_BYTES, int(len(body) * share))]
            sent.set()
            if share < 1:
                gone.wait(10)
                raise OSError("the sender has seen the server die")

        def post() -> None:
            headers = {
                "authorization": f"Bearer {server.api_key}",
                "content-type": f"multipart/form-data; boundary={BOUNDARY}",
                "content-length": str(len(body)),
            }
            try:
                answers.append(httpx.post(f"http://127.0.0.1:{port}/v1/files", content=parts(), headers=headers))
            except (httpx.HTTPError, OSError):
                return

        sender = threading.Thread(target=post)
        sender.start()
        assert sent.wait(240)
        if share == 1:
            threading.Event().wait(random.uniform(0, 0.5))  # noqa: S311 - anywhere in the last steps
    finally:
        process.kill()
        process.join()
    gone.set()
    sender.join(60)
    return bool(answers) and answers[0].status_code == 200


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def check_files(server: Server, content: bytes) -> int:
    """Check that every stored file is complete; return their number."""
    with server.database.transaction() as session:
        files = session.scalars(select(File)).all()
    for file in files:
        with server.store.open(file.blob) as stream:
            assert stream.read() == content
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return len(files)


def test_killed_upload_is_absent_or_complete(server: Server, tmp_path: Path) -> None:
    content = b"".join(b'{"n": %d}\n' % number for number in range(150_000))
    assert upload_and_kill(server, 0.5, content) is False
    assert check_files(server, content) == 0
    answered = sum(upload_and_kill(server, 1.0, content) for _ in range(KILLS - 1))
    assert check_files(server, content) >= answered  # every upload with a 200 response exists
