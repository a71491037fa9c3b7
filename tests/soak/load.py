"""Clients of a soak. Each repeats one kind of work until it is stopped and records what the server accepted.

A request that is cut by a kill is sent again, like a client would, with the same `Idempotency-Key`.
"""

import hashlib
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.soak.installation import Installation, any_moment

PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 0.3
AWAY_SECONDS: Final = 300.0
"""A client gives up if the server stays away this long: then the soak has failed."""
UNFINISHED: Final = ("validating_files", "queued", "running", "paused")
AT_ONCE: Final = 2
"""Unfinished jobs."""
KEPT: Final = 6
"""Files, and models that answer and are exported."""
GRADER: Final = {"type": "python", "source": "def grade(sample, item):\n    return len(sample['output_text']) % 7 / 7"}
EXPECTED: Final = frozenset({200, 404, 429, 503})
"""404: another client has deleted the object."""
STOPS: Final = ("/cancel", "/pause", "/resume")
"""A 400 means that the job has ended or changed its state before."""
REFUSALS: Final = frozenset(
    {
        *("file_in_use", "file_not_ready", "model_in_use", "export_not_ready", "export_finished"),
        *("idempotency_in_progress", "answer_lost", "answer_not_kept"),
    }
)
"""Codes of a 400 or 409 that is right: another client was faster, or the API was killed before it answered."""


@dataclass
class Ledger:
    """What the server accepted and answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    """Responses with another status than the expected ones."""
    cut: int = 0
    """Requests without a response."""
    counts: Counter[str] = field(default_factory=Counter)
    jobs: list[str] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Id of an accepted file that was not deleted -> SHA-256 of its content."""
    broken: list[str] = field(default_factory=list)
    """Violations that a client noticed."""

    def add(self, response: httpx.Response) -> None:
        self.statuses[response.status_code] += 1
        if response.status_code not in EXPECTED:
            code = response.json()["error"]["code"] if response.status_code in (400, 409) else ""
            is_late = response.status_code == 400 and response.url.path.endswith(STOPS)
            if code not in REFUSALS and not is_late:
                sent = f"{response.request.method} {response.url.path}"
                self.unexpected.append(f"{sent}: {response.status_code} {response.text[:200]}")


class Client:
    """One client with a connection of its own."""

    def __init__(self, installation: Installation, ledger: Ledger, stop: threading.Event) -> None:
        self.http, self.ledger, self.stop = installation.client(), ledger, stop

    def send(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Send a request once; return None if the connection is cut."""
        try:
            response = self.http.request(method, path, **options)
        except httpx.TransportError:
            self.ledger.cut += 1
            return None
        self.ledger.add(response)
        return response

    def get(self, path: str) -> Any:
        """Return the body of a 200, else None."""
        response = self.send("GET", path)
        return response.json() if response is not None and response.status_code == 200 else None

    def create(self, path: str, **options: Any) -> Any:
        """POST until there is a final answer; return its body if it is a 200, else None.

        Raises `TimeoutError` if the server stays away.
        """
        headers = {"idempotency-key": uuid.uuid4().hex}
        deadline = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < deadline:
            response = self.send("POST", path, headers=headers, **options)
            if response is not None and response.status_code not in (429, 503):
                return response.json() if response.status_code in (200, 201) else None
            time.sleep(RETRY_SECONDS)  # not until `stop`: what was sent needs an answer even then
        raise TimeoutError(f"POST {path} had no final answer for {AWAY_SECONDS:g} s")

    def lines(self, method: str, path: str, seconds: float | None = None, **options: Any) -> Iterator[str]:
        """Yield the lines of a stream to its end, or hang up after some seconds. Raises `TransportError`."""
        started = time.monotonic()
        with self.http.stream(method, path, **options) as response:
            if response.status_code != 200:
                response.read()
            self.ledger.add(response)
            if response.status_code != 200:
                return
            for line in response.iter_lines():
                yield line
                if seconds is not None and time.monotonic() - started > seconds:
                    return


def rows(count: int) -> bytes:
    """Return a training file that no other client has uploaded."""
    texts = [f"{number}+{random.randrange(9)}={uuid.uuid4().hex[:4]}" for number in range(count)]  # noqa: S311
    return b"".join(
        json.dumps({"prompt": words, "completion": words[-1], "teacher_responses": ["1", "2"]}).encode() + b"\n"
        for words in texts
    )


def poll(client: Client) -> None:
    """Read what a dashboard reads."""
    listed = client.get("/fine_tuning/jobs?limit=20")
    for path in ("/files", "/models", "/workers", "/usage/completions?start_time=0&limit=3"):
        client.get(path)
    for job in (listed or {"data": []})["data"][:3]:
        for part in ("", "/events", "/metrics", "/attempts", "/checkpoints"):
            client.get(f"/fine_tuning/jobs/{job['id']}{part}")


def upload(client: Client) -> None:
    """Upload a file whole or in parts, or give up in the middle; read and delete others."""
    content = rows(random.randint(4, 200))  # noqa: S311
    kind = random.choice(["whole", "parts", "abandoned", "parts abandoned"])  # noqa: S311
    if kind == "whole":
        _note_file(client, _upload(client, content), content)
    elif kind == "abandoned":
        _hang_up_during(client, content)
    else:
        _upload_parts(client, content, kind == "parts")
    client.ledger.counts[f"uploads {kind}"] += 1
    ids = list(client.ledger.files)
    if ids:
        client.get(f"/files/{random.choice(ids)}/preview?model=tiny")  # noqa: S311
    for file_id in ids[: max(0, len(ids) - KEPT)]:
        response = client.send("DELETE", f"/files/{file_id}")
        if response is not None and response.status_code in (200, 404):
            client.ledger.files.pop(file_id, None)


def _upload(client: Client, content: bytes) -> Any:
    files = {"file": ("rows.jsonl", content), "purpose": (None, "fine-tune")}
    return client.create("/files", files=files)


def _note_file(client: Client, file: Any, content: bytes) -> None:
    if file is not None:
        client.ledger.files[file["id"]] = hashlib.sha256(content).hexdigest()


def _upload_parts(client: Client, content: bytes, finish: bool) -> None:
    fields = {"filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    created = client.create("/uploads", json=fields | {"bytes": len(content)})
    if created is None:
        return
    half = len(content) // 2
    path = f"/uploads/{created['id']}"
    parts = [client.create(f"{path}/parts", files={"data": data}) for data in (content[:half], content[half:])]
    if None in parts:
        return
    if finish:
        done = client.create(f"{path}/complete", json={"part_ids": [part["id"] for part in parts]})
        _note_file(client, done and done["file"], content)
    elif random.random() < 0.5:  # noqa: S311
        client.create(f"{path}/cancel")


def _hang_up_during(client: Client, content: bytes) -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        yield content
        raise httpx.WriteError("hang up")

    client.send("POST", "/files", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})


def train(client: Client) -> None:
    """Create a job; cancel some, pause and resume others, delete old ones."""
    ledger = client.ledger
    unfinished = [
        job for job in ledger.jobs if (client.get(f"/fine_tuning/jobs/{job}") or {}).get("status") in UNFINISHED
    ]
    if len(unfinished) >= AT_ONCE:
        client.stop.wait(0.5)
        return
    content = rows(16)
    file = _upload(client, content)
    if file is None:
        return
    body = {
        "model": random.choice(["tiny", "tiny", *ledger.models[-1:]]),  # noqa: S311
        "training_file": file["id"],
        "method": {
            "type": "gft",
            "gft": {
                "grader": GRADER,
                "sampling": {"max_tokens": 8},
                "hyperparameters": {"batch_size": 4, "max_steps": random.choice([2, 4, 40])},  # noqa: S311
            },
        },
    }
    job = client.create("/fine_tuning/jobs", json=body)
    if job is None:
        return
    ledger.jobs.append(job["id"])
    ledger.counts["jobs"] += 1
    if random.random() < 0.4:  # noqa: S311
        client.stop.wait(any_moment(12))
        for verb in random.choice([("cancel",), ("pause", "resume")]):  # noqa: S311
            client.create(f"/fine_tuning/jobs/{job['id']}/{verb}")
            ledger.counts[f"jobs {verb}"] += 1
    client.send("DELETE", f"/files/{file['id']}")


def follow(client: Client) -> None:
    """Follow a job to its end and resume after cuts: every event once, in order. Or hang up."""
    if not client.ledger.jobs:
        client.stop.wait(0.5)
        return
    job_id = random.choice(client.ledger.jobs[-4:])  # noqa: S311
    seconds = random.choice([None, any_moment(4)])  # noqa: S311
    ids: list[str] = []
    cuts = 0
    while not client.stop.is_set():
        headers = {"last-event-id": ids[-1]} if ids else {}
        try:
            ended = False
            for line in client.lines("GET", f"/fine_tuning/jobs/{job_id}/stream", seconds, headers=headers):
                if line.startswith("id: "):
                    ids.append(line)
                ended = ended or line == "event: end"
                if client.stop.is_set():
                    return
            if ended or seconds is not None:
                break
        except httpx.TransportError:
            cuts += 1
        client.stop.wait(RETRY_SECONDS)
        ids = [entry.removeprefix("id: ") for entry in ids]
    client.ledger.counts["streams"] += 1
    client.ledger.counts["streams resumed"] += cuts
    if len(set(ids)) != len(ids):
        client.ledger.broken.append(f"the stream of {job_id} sent an event twice")


def watch(client: Client) -> None:
    """Watch the project for a while, then hang up."""
    try:
        for _ in client.lines("GET", "/fine_tuning/stream", any_moment(3)):
            if client.stop.is_set():
                return
    except httpx.TransportError:
        client.ledger.cut += 1
        client.stop.wait(RETRY_SECONDS)
    client.ledger.counts["streams"] += 1


def chat(client: Client) -> None:
    """Ask the base model or a trained one for a streamed answer; hang up in the middle of some."""
    seconds = random.choice([None, any_moment(0.5)])  # noqa: S311
    body = {
        "model": random.choice(["tiny", *client.ledger.models[-KEPT:]]),  # noqa: S311
        "messages": [{"role": "user", "content": "1+1="}],
        "max_completion_tokens": random.choice([8, 100]),  # noqa: S311
        "stream": True,
    }
    last = ""
    try:
        for line in client.lines("POST", "/chat/completions", seconds, json=body):
            last = line or last
    except httpx.TransportError:
        client.ledger.counts["chats cut"] += 1
        client.stop.wait(RETRY_SECONDS)
        return
    if not last:
        client.stop.wait(RETRY_SECONDS)  # refused: no engine for the moment
        return
    client.ledger.counts["chats"] += 1
    if seconds is None and last != "data: [DONE]" and '"error"' not in last:
        client.ledger.broken.append(f"an answer ended with {last[:80]!r}")


def use_models(client: Client) -> None:
    """Export the newest models, download the archives, delete old models."""
    ledger = client.ledger
    listed = client.get("/models")
    found = [model["id"] for model in (listed or {"data": []})["data"] if model["id"].startswith("ft:")]
    if listed is not None:
        ledger.models[:] = found
    if not found:
        client.stop.wait(1)
        return
    newest = client.get(f"/exports/{ledger.exports[-1]}") if ledger.exports else None
    if (newest or {}).get("status") in ("queued", "running"):
        client.stop.wait(1)
        return
    kind = random.choice(["merged", "gguf-lora"])  # noqa: S311
    export = client.create(f"/models/{random.choice(found)}/exports", json={"format": kind})  # noqa: S311
    if export is not None and export["id"] not in ledger.exports:
        ledger.exports.append(export["id"])
        ledger.counts["exports"] += 1
    for export_id in ledger.exports[-2:]:
        if random.random() < 0.2:  # noqa: S311
            client.create(f"/exports/{export_id}/cancel")
        else:
            client.send("GET", f"/exports/{export_id}/content")
    if len(found) > KEPT:
        client.send("DELETE", f"/models/{random.choice(found[KEPT:])}")  # noqa: S311
    client.stop.wait(2)


def grade(client: Client) -> None:
    """Run graders, validate jobs, and make and revoke a key."""
    body = {"grader": GRADER, "model_sample": "abc", "item": {}}
    client.send("POST", "/fine_tuning/alpha/graders/run", json=body)
    key = client.create("/api_keys", json={"name": "soak"})
    if key is not None:
        client.send("DELETE", f"/api_keys/{key['id']}")
    client.ledger.counts["grader runs"] += 1
    client.stop.wait(0.5)


CLIENTS: Final[tuple[Callable[[Client], None], ...]] = (
    poll,
    poll,
    upload,
    train,
    follow,
    follow,
    watch,
    watch,
    chat,
    chat,
    use_models,
    grade,
)


def run(installation: Installation, ledger: Ledger, stop: threading.Event) -> list[threading.Thread]:
    """Start one thread for each of `CLIENTS`. An exception in one ends up in `ledger.broken`."""

    def work(step: Callable[[Client], None]) -> None:
        client = Client(installation, ledger, stop)
        with client.http:
            while not stop.is_set():
                try:
                    step(client)
                except Exception as error:  # a bug of the client must fail the soak, not end one thread quietly
                    ledger.broken.append(f"{step.__name__}: {error!r}")
                    return
                stop.wait(PAUSE_SECONDS)

    threads = [threading.Thread(target=work, args=(step,), name=step.__name__) for step in CLIENTS]
    for thread in threads:
        thread.start()
    return threads
