"""Following a job over server-sent events, across broken connections and outages."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from app.cli.jobs.watcher import Snapshot, WaitTimeout, retry_until_available, watch
from app.client import ApiError, Client, ServerUnreachable
from tests.http_server import Received, Reply, http_server

UNICODE_LINE_ENDS = "one\u2028two\u0085three\u2029four"
"""`str.splitlines` splits at these characters; JSON and server-sent events do not."""


def message(name: str, data: dict[str, Any], event_id: str | None = None) -> str:
    begin = "" if event_id is None else f"id: {event_id}\n"
    return f"{begin}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def state(status: str) -> str:
    return message("state", {"id": "ftjob-1", "status": status})


def event(event_id: str, text: str = "") -> str:
    return message("message", {"id": event_id, "message": text}, event_id)


def stream(*parts: str) -> Reply:
    return Reply("".join(parts).encode(), headers={"content-type": "text/event-stream; charset=utf-8"})


@contextmanager
def answering(*replies: Reply | Callable[[Received], Reply]) -> Iterator[tuple[Client, list[Received]]]:
    """Run a server that sends these replies in order and then repeats the last one."""
    seen: list[Received] = []

    def answer(request: Received) -> Reply:
        reply = replies[min(len(seen), len(replies) - 1)]
        seen.append(request)
        return reply if isinstance(reply, Reply) else reply(request)

    with ExitStack() as open_now:
        url = open_now.enter_context(http_server(answer))
        yield open_now.enter_context(Client(f"{url}/v1", "key")), seen


def no_pause(_seconds: float) -> None:
    """Reconnect without waiting."""


def followed(client: Client) -> list[Snapshot]:
    return list(watch(client, "ftjob-1", pause=no_pause))


def events_of(snapshots: list[Snapshot]) -> list[str]:
    return [event["id"] for snapshot in snapshots for event in snapshot.events]


def test_broken_stream_resumes_after_last_event() -> None:
    whole = (
        stream(state("running"), event("e1"), event("e2", UNICODE_LINE_ENDS), ": still here\n\n"),
        Reply(status=503, body=b'{"error": {"message": "The database is away"}}'),
        stream(state("succeeded"), event("e3")),
        stream(state("succeeded"), event("e4"), message("end", {"status": "succeeded"})),
    )
    with answering(*whole) as (client, seen):
        snapshots = followed(client)
    assert events_of(snapshots) == ["e1", "e2", "e3", "e4"]
    assert [event["message"] for s in snapshots for event in s.events if event["id"] == "e2"] == [UNICODE_LINE_ENDS]
    assert [request.headers.get("last-event-id") for request in seen] == [None, "e2", "e2", "e3"]
    assert {request.path for request in seen} == {"/v1/fine_tuning/jobs/ftjob-1/stream"}


def test_only_the_last_snapshot_is_final() -> None:
    last = stream(state("running"), event("e1"), state("failed"), event("e2"), message("end", {"status": "failed"}))
    with answering(last) as (client, _):
        snapshots = followed(client)
    assert [each.is_final for each in snapshots] == [False, False, True]
    assert [event["id"] for event in snapshots[-1].events] == ["e2"]


def test_queue_position_is_polled() -> None:
    moved = Reply(json.dumps({"id": "ftjob-1", "status": "queued", "queue_position": 2}).encode())
    end = stream(state("cancelled"), message("end", {"status": "cancelled"}))
    with answering(stream(state("queued"), ": still here\n\n"), moved, end) as (client, seen):
        snapshots = followed(client)
    assert [each.job.get("queue_position") for each in snapshots] == [None, 2, None]
    assert seen[1].path == "/v1/fine_tuning/jobs/ftjob-1"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=404, body=b'{"error": {"message": "There is no job"}}'), ApiError),
        (Reply(status=401, body=b'{"error": {"message": "no key"}}'), ApiError),
    ],
)
def test_permanent_error_is_not_retried(reply: Reply, error: type[Exception]) -> None:
    with answering(reply) as (client, seen), pytest.raises(error):
        followed(client)
    assert len(seen) == 1


def test_outage_is_retried_and_reported_once() -> None:
    away = Reply(b'{"error": {"message": "The database is away."}}', 503)
    messages: list[str] = []
    with answering(away, away, Reply(b'{"id": "ftjob-1"}')) as (client, seen):
        job = retry_until_available(
            lambda: client.post("/fine_tuning/jobs", {}),
            pause=no_pause,
            report=messages.append,
            report_after_seconds=-1.0,
        )
    assert (job, len(seen)) == ({"id": "ftjob-1"}, 3)
    assert messages == ["The database is away. Retrying for up to 5 minutes."]
    refused = Reply(b'{"error": {"message": "no"}}', 400)
    with answering(refused) as (client, seen), pytest.raises(ApiError):
        retry_until_available(lambda: client.get("/models"), pause=no_pause)
    assert len(seen) == 1


def test_wait_gives_up_after_a_long_outage() -> None:
    tries = 0

    def count(seconds: float) -> None:
        nonlocal tries
        tries += 1

    started = time.monotonic()
    with Client("http://127.0.0.1:9/v1", "key") as client, pytest.raises(ServerUnreachable):
        list(watch(client, "ftjob-1", pause=count, outage_seconds=1))
    assert tries > 1
    assert time.monotonic() - started > 1


def test_timeout_during_silence() -> None:
    is_over = threading.Event()

    def silent(_request: Received) -> Reply:
        assert is_over.wait(240)  # stay silent until the client has given up
        return stream(state("running"))

    with answering(silent) as (client, _):
        with pytest.raises(WaitTimeout):
            list(watch(client, "ftjob-1", pause=no_pause, timeout_seconds=0.5))
        is_over.set()


def test_deletion_of_the_job_is_an_error() -> None:
    replies = (
        stream(state("running"), message("end", {"status": "deleted"})),
        Reply(status=404, body=b'{"error": {"message": "The job does not exist"}}'),
    )
    with answering(*replies) as (client, seen), pytest.raises(ApiError, match="does not exist"):
        followed(client)
    assert [request.path for request in seen] == ["/v1/fine_tuning/jobs/ftjob-1/stream", "/v1/fine_tuning/jobs/ftjob-1"]
