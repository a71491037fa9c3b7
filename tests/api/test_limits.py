"""Rate limits and quotas: status, headers, and the retries of the SDK."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI, RateLimitError

from app.core.accounts.tables import ApiKey
from app.core.settings import Settings
from tests.api.jobs import create
from tests.api.server import Server, new_key, serve


@pytest.fixture
def counting(api_settings: Settings, broker_url: str) -> Iterator[list[str]]:
    """Two servers of the same installation, with a broker."""
    fields = api_settings.model_dump() | {"REDIS_URL": broker_url, "DATABASE_URL": api_settings.database_url}
    for name in ("redis_url", "database_url"):
        del fields[name]
    with ExitStack() as running:
        yield [running.enter_context(serve(Settings.model_validate(fields))) for _ in range(2)]


def limit(server: Server, **limits: int) -> None:
    admin = new_key(server.database, server.project_id, "admin")
    answer = httpx.post(
        f"{server.url}/v1/projects/{server.project_id}",
        json={"limits": limits},
        headers={"authorization": f"Bearer {admin}"},
    )
    assert answer.status_code == 200


class Sent:
    """Counts the requests that a client sends, retries included."""

    def __init__(self) -> None:
        self.count = 0
        self.http = DefaultHttpxClient(event_hooks={"request": [self._note]})

    def client(self, url: str, key: str) -> OpenAI:
        return OpenAI(base_url=f"{url}/v1", api_key=key, http_client=self.http)

    def _note(self, _request: object) -> None:
        self.count += 1


@pytest.fixture
def sent() -> Iterator[Sent]:
    counter = Sent()
    with counter.http:
        yield counter


def test_rate_limit_headers_count_down(server: Server, counting: list[str]) -> None:
    limit(server, requests_per_minute=10)
    with httpx.Client(headers={"authorization": f"Bearer {server.api_key}"}) as http:
        answers = [
            http.get(f"{counting[number % 2]}/v1/files{path}") for number, path in enumerate(["", "/none", "", ""])
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 200]
    left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert left == [9, 8, 7, 6]  # by two processes
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"10"}
    for answer in answers:
        assert re.fullmatch(r"(\d+m)?\d+s|\d+ms", answer.headers["x-ratelimit-reset-requests"])
        assert "retry-after" not in answer.headers


def test_replays_are_charged(server: Server, counting: list[str]) -> None:
    limit(server, requests_per_minute=5)
    headers = {"authorization": f"Bearer {server.api_key}", "idempotency-key": "again"}
    with httpx.Client(base_url=counting[0], headers=headers) as http:
        found = [http.post("/v1/fine_tuning/jobs/validate", json={}).status_code for _ in range(12)]
    assert found.count(429) >= 6


def test_request_over_the_limit_is_429(server: Server, counting: list[str]) -> None:
    limit(server, requests_per_minute=2)
    client = server.client().with_options(base_url=f"{counting[0]}/v1")
    client.files.list()
    client.files.list()
    with pytest.raises(RateLimitError) as caught:
        client.files.list()
    error, headers = caught.value, caught.value.response.headers
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert "'default' may send 2 requests a minute" in str(error)
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-limit-requests"]) == ("0", "2")
    assert 0 < int(headers["retry-after"]) <= 30
    assert 0 < float(headers["retry-after-ms"]) <= 30_000
    assert headers["openai-organization"] == "default"
    with httpx.Client(base_url=counting[1]) as http:
        again = http.get("/v1/models", headers={"authorization": f"Bearer {server.api_key}"})
        assert again.status_code == 429  # the other process shares the count
        assert http.get("/healthz").status_code == 200


def test_sdk_retries_after_a_rate_limit(server: Server, counting: list[str], sent: Sent) -> None:
    limit(server, requests_per_minute=30)
    client = sent.client(counting[0], server.api_key)
    calls = 0
    while sent.count == calls:  # until one was rejected and retried
        assert client.files.list().data == []
        calls += 1


def test_key_has_its_own_limit(server: Server, counting: list[str]) -> None:
    slow = new_key(server.database, server.project_id)
    with server.database.transaction() as session:
        session.get_one(ApiKey, slow.split("_")[2]).requests_per_minute = 1
    client = server.client(api_key=slow).with_options(base_url=f"{counting[0]}/v1")
    client.files.list()
    with pytest.raises(RateLimitError, match=r"API key .* may send 1 request a minute"):
        client.files.list()
    other = server.client().with_options(base_url=f"{counting[0]}/v1")
    assert other.files.with_raw_response.list().headers["x-ratelimit-limit-requests"] == "30000"


def test_no_rate_limit_without_a_broker(server: Server) -> None:
    limit(server, requests_per_minute=1)
    for _ in range(3):
        assert "x-ratelimit-limit-requests" not in server.client().files.with_raw_response.list().headers


def test_job_over_the_quota_is_not_retried(server: Server, training_file: str, sent: Sent) -> None:
    limit(server, queued_jobs=1)
    client = sent.client(server.url, server.api_key)
    job = create(client, training_file)
    sent.count = 0
    with pytest.raises(RateLimitError, match=r"has 1 waiting job .* limit is 1 \(queued_jobs") as caught:
        create(client, training_file)
    assert sent.count == 1
    assert (caught.value.code, caught.value.type) == ("quota_exceeded", "insufficient_quota")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers
    assert [job_object.id for job_object in client.fine_tuning.jobs.list()] == [job.id]
    client.fine_tuning.jobs.cancel(job.id)
    assert create(client, training_file).status == "queued"


def test_file_over_the_quota_leaves_nothing(server: Server, rows: Path, sent: Sent) -> None:
    size = rows.stat().st_size
    limit(server, stored_bytes=size + 10)
    client = sent.client(server.url, server.api_key)
    file = client.files.create(file=rows, purpose="fine-tune")
    before = server.store.list("files")
    sent.count = 0
    with pytest.raises(RateLimitError, match=rf"stores {size:,} bytes .* this file has {size:,}") as caught:
        client.files.create(file=rows, purpose="fine-tune")
    assert (sent.count, caught.value.code) == (1, "quota_exceeded")
    assert server.store.list("files") == before
    client.files.delete(file.id)
    assert client.files.create(file=rows, purpose="fine-tune").bytes == size


def test_uploads_in_parts_count_before_they_are_stored(server: Server) -> None:
    limit(server, stored_bytes=1000)
    with OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=0) as client:
        upload = client.uploads.create(bytes=900, filename="a", purpose="fine-tune", mime_type="text/jsonl")
        with pytest.raises(RateLimitError, match="stores 900 bytes"):  # announced bytes are reserved
            client.uploads.create(bytes=200, filename="b", purpose="fine-tune", mime_type="text/jsonl")
        with pytest.raises(RateLimitError, match="stores 1,050 bytes"):
            client.uploads.parts.create(upload.id, data=b"x" * 1050)
        assert server.store.list(f"uploads/{upload.id}") == []
        part = client.uploads.parts.create(upload.id, data=b"{}\n" * 300)
        done = client.uploads.complete(upload.id, part_ids=[part.id])  # the reserved bytes become the file's
        assert done.file is not None
        with pytest.raises(RateLimitError, match="stores 900 bytes"):
            client.uploads.create(bytes=200, filename="b", purpose="fine-tune", mime_type="text/jsonl")


def test_file_over_the_quota_is_refused_unread(server: Server) -> None:
    limit(server, stored_bytes=100)
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60) as connection:
        head = "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        key = f"authorization: Bearer {server.api_key}\r\n"
        connection.sendall(f"{head}{key}content-length: 200000\r\n\r\n".encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 429")  # although no byte of the body was sent
