"""Server-sent events over real sockets: every event once and in order, despite failures."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import httpx
import pytest
from sqlalchemy import event, func, select, text

from app.api import sse
from app.api.job_reader import JobReader
from app.auth.browser import COOKIE
from app.core.accounts import api_key_admin, browser_sessions
from app.core.accounts.audit import Actor
from app.core.accounts.tables import ApiKey, Project
from app.core.jobs import deletion, leases, lifecycle
from app.core.jobs.events import Event, append
from app.core.jobs.journal import Journal
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Job, JobEvent
from app.core.spec.reports import Message, Metrics
from tests.api.server import Server, new_project
from tests.http_server import free_port
from tests.setup_jobs import make_job
from tests.waiting import eventually

SSE = dict[str, Any]


@contextmanager
def following(server: Server, path: str, last: str | None = None, **headers: str) -> Iterator[Iterator[SSE]]:
    """Yield the messages of a stream, without comments."""
    headers = {"authorization": f"Bearer {server.api_key}"} | headers | ({"last-event-id": last} if last else {})
    with httpx.stream("GET", f"{server.url}/v1{path}", headers=headers, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield _messages(answer.iter_lines())


def _messages(lines: Iterator[str]) -> Iterator[SSE]:
    message: SSE = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if not line:
            if message:
                yield message
            message = {}
            continue
        name, _, value = line.partition(": ")
        message[name] = json.loads(value) if name == "data" else value


def cut_waiting(server: Server) -> bool:
    """Cut the connections that wait for the lock to read a stream's events; return whether there was one."""
    with server.database.transaction() as session:
        pids = session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%job_events.seq >%'"
            )
        )
        return bool(list(pids))


def running(server: Server) -> Claim:
    with server.database.transaction() as session:
        make_job(session, server.project_id)
        claim = leases.claim(session, "w", 600)
        assert claim is not None
        return claim


def say(server: Server, claim: Claim, *words: str) -> None:
    with server.database.transaction() as session:
        leases.hold(session, claim)
        append(session, claim.job_id, *map(Event, words))


def cancel(server: Server, job_id: str) -> None:
    with server.database.transaction() as session:
        lifecycle.cancel(session, Actor(server.project_id), job_id)


def ids_in_order(server: Server, job_id: str) -> list[str]:
    with server.database.transaction() as session:
        return list(session.scalars(select(JobEvent.id).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)))


def test_stream_covers_a_whole_job(server: Server) -> None:
    with server.database.transaction() as session:
        job = make_job(session, server.project_id).id
    with following(server, f"/fine_tuning/jobs/{job}/stream") as messages:
        state = next(messages)
        assert (state["event"], state["data"]["id"], state["data"]["status"]) == ("state", job, "queued")
        assert "id" not in state
        first = list(islice(messages, 3))
        assert first[0]["data"]["message"] == f"Created fine-tuning job: {job}"
        cancel(server, job)
        state, last, end = list(messages)
    assert (state["event"], state["data"]["status"]) == ("state", "cancelled")
    assert last["data"]["message"] == "The job was cancelled"
    assert (end["event"], end["data"]) == ("end", {"status": "cancelled"})
    assert [message["id"] for message in [*first, last]] == ids_in_order(server, job)
    shown = {event.id: event.to_dict() for event in server.client().fine_tuning.jobs.list_events(job)}
    for message in first:
        assert shown[message["id"]] == message["data"]


def test_metrics_come_as_they_are_written(server: Server) -> None:
    claim = running(server)
    journal = Journal(server.database, claim)
    with following(server, f"/fine_tuning/jobs/{claim.job_id}/stream") as messages:
        for message in messages:
            if message["event"] == "message" and message["data"]["message"] == "Fine-tuning job started":
                break
        journal.metrics([Metrics(step=1, values={"loss": 0.5, "reward": float("nan")})])
        seen = list(islice(messages, 2))
        assert {message["event"] for message in seen} == {"state", "metrics"}
        (metrics,) = [message["data"] for message in seen if message["event"] == "metrics"]
        assert (metrics["type"], metrics["data"]["loss"], metrics["data"]["reward"]) == ("metrics", 0.5, None)
        journal.message(Message(message="two\nlines"))
        assert next(messages)["data"]["message"] == "two\nlines"


def test_stream_cut_fifty_times_loses_no_event(server: Server) -> None:
    claim = running(server)
    seen: list[str] = []
    for cut in range(50):
        say(server, claim, *(f"{cut}.{number}" for number in range(3)))
        with following(server, f"/fine_tuning/jobs/{claim.job_id}/stream", seen[-1] if seen else None) as messages:
            events = (message["id"] for message in messages if "id" in message)
            seen += islice(events, 1 + cut % 4)  # the connection is cut here
    with server.database.transaction() as session:
        lifecycle.cancel(session, Actor(server.project_id), claim.job_id)
    with following(server, f"/fine_tuning/jobs/{claim.job_id}/stream", seen[-1]) as messages:
        wanted = len(ids_in_order(server, claim.job_id))
        seen += (
            message["id"]
            for message in islice((message for message in messages if "id" in message), wanted - len(seen))
        )
    assert seen == ids_in_order(server, claim.job_id)


def test_stream_spans_several_batches(server: Server) -> None:
    claim = running(server)
    say(server, claim, *map(str, range(2 * sse.BATCH + 30)))
    wanted = ids_in_order(server, claim.job_id)
    with following(server, f"/fine_tuning/jobs/{claim.job_id}/stream") as messages:
        assert [
            message["id"] for message in islice((message for message in messages if "id" in message), len(wanted))
        ] == wanted


def test_silence_is_filled_with_comments(server: Server) -> None:
    claim = running(server)

    async def watch() -> None:
        hub = sse.Hub(server.database, JobReader(server.database), heartbeat_seconds=0.05)
        messages = hub.job(server.project_id, claim.job_id, 0, strict=False)
        while await anext(messages) != sse.HEARTBEAT:
            pass
        hub.close()
        assert [message async for message in messages] == []

    asyncio.run(watch())


def test_strict_stream_uses_openai_enums(server: Server) -> None:
    with server.database.transaction() as session:
        job = make_job(session, server.project_id).id
        lifecycle.pause(session, Actor(server.project_id), job)
    headers = {"x-grouptune-strict-enums": "true"}
    with following(server, f"/fine_tuning/jobs/{job}/stream", **headers) as messages:
        assert next(messages)["data"]["status"] == "queued"
    with following(server, f"/fine_tuning/jobs/{job}/stream") as messages:
        assert next(messages)["data"]["status"] == "paused"


def test_an_unknown_last_event_is_refused(server: Server) -> None:
    claim = running(server)
    headers = {"authorization": f"Bearer {server.api_key}", "last-event-id": "ftevent-x"}
    answer = httpx.get(f"{server.url}/v1/fine_tuning/jobs/{claim.job_id}/stream", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_project_stream_has_only_its_own_jobs(server: Server) -> None:
    with server.database.transaction() as session:
        first = make_job(session, server.project_id).id
    stranger, _ = new_project(server.database, "stranger")
    with following(server, "/fine_tuning/stream") as messages:
        assert next(messages)["data"]["id"] == first
        with server.database.transaction() as session:
            theirs = make_job(session, stranger).id
            second = make_job(session, server.project_id).id
        new = next(messages)["data"]
        assert (new["id"], new["status"]) == (second, "queued")
        cancel(server, first)
        changed = next(messages)["data"]
        assert (changed["id"], changed["status"]) == (first, "cancelled")
        assert theirs not in (new["id"], changed["id"])


def test_file_stream_ends_after_validation(server: Server) -> None:
    client = server.client()
    upload = client.files.create(file=b'{"prompt": "1+1="}\n', purpose="fine-tune")
    with following(server, f"/files/{upload.id}/stream") as messages:
        assert next(messages)["data"] == client.files.retrieve(upload.id).to_dict()
        server.validate_files()
        state, end = list(messages)
    assert (state["event"], state["data"]["status"]) == ("state", "processed")
    assert (end["event"], end["data"]) == ("end", {"status": "processed"})
    waiting = client.files.create(file=b"{}", purpose="fine-tune")
    with following(server, f"/files/{waiting.id}/stream") as messages:
        assert next(messages)["data"]["status"] == "uploaded"
        client.files.delete(waiting.id)
        assert [message["data"] for message in messages] == [{"status": "deleted"}]
    assert httpx.get(f"{server.url}/v1/files/{waiting.id}/stream", headers=dict(client.auth_headers)).status_code == 404


def test_stream_survives_a_lost_connection(server: Server) -> None:
    claim = running(server)
    with following(server, f"/fine_tuning/jobs/{claim.job_id}/stream") as messages:
        events = (message["data"]["message"] for message in messages if "id" in message)
        assert "Fine-tuning job started" in events
        with server.database.transaction() as session:
            session.connection().exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        server.database.dispose()  # its other connections are cut too
        with server.database.transaction() as session:
            assert session.get(Job, claim.job_id) is not None
        say(server, claim, "still there")
        assert next(events) == "still there"


def test_stream_reads_events_again_after_an_error(server: Server) -> None:
    claim = running(server)
    path = f"/fine_tuning/jobs/{claim.job_id}/stream"
    expected = ids_in_order(server, claim.job_id)

    def first_ids() -> list[str]:
        with following(server, path) as messages:
            return [message["id"] for message in islice((each for each in messages if "id" in each), len(expected))]

    with following(server, path, expected[-1]) as other, ThreadPoolExecutor(1) as threads:
        assert next(other)["event"] == "state"  # the poller knows the job, and no stream has read its events
        with server.database.transaction() as locked:
            locked.execute(text("LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE"))
            received = threads.submit(first_ids)
            eventually(lambda: cut_waiting(server))
        assert received.result() == expected


@pytest.mark.parametrize("end", ["revoke", "expire", "archive"])
def test_revoked_key_ends_open_streams(server: Server, end: str) -> None:
    project, key = new_project(server.database, f"to-{end}")
    with following(server, "/fine_tuning/stream", authorization=f"Bearer {key}") as stream:
        with server.database.transaction() as session:
            held = session.scalars(select(ApiKey).where(ApiKey.project_id == project)).one()
            if end == "revoke":
                api_key_admin.revoke(session, Actor(project), held.id)
            elif end == "expire":
                held.expires_at = func.now()
            else:
                session.get_one(Project, project).archived_at = func.now()
            make_job(session, project)
        *_, last = stream  # the server ends the stream
    assert last["event"] == "revoked"
    assert last["data"]["error"]["type"] == "invalid_request_error"


def test_sign_out_ends_open_streams(server: Server) -> None:
    with server.database.transaction() as session:
        token = browser_sessions.sign_in(session, server.api_key.split("_")[2])
    with following(server, "/fine_tuning/stream", authorization="", cookie=f"{COOKIE}={token}") as stream:
        with server.database.transaction() as session:
            browser_sessions.sign_out(session, token)
        assert [message["data"]["error"]["code"] for message in stream] == ["session_expired"]


def test_shutdown_ends_open_streams(server: Server) -> None:
    claim = running(server)
    port = free_port()
    url = server.database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
    environment = os.environ | {"DATABASE_URL": url, "GROUPTUNE_STATE_DIR": str(server.settings.state_dir)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("running on" in line for line in process.stderr)
            headers = {"authorization": f"Bearer {server.api_key}"}
            path = f"http://127.0.0.1:{port}/v1/fine_tuning/jobs/{claim.job_id}/stream"
            with httpx.stream("GET", path, headers=headers, timeout=60) as answer:
                lines = answer.iter_lines()
                assert next(lines) == "event: state"
                process.send_signal(signal.SIGTERM)
                assert "event: end" not in list(lines)
            process.wait(240)  # uvicorn alone would wait for the stream forever
        finally:
            process.kill()


def test_stream_of_a_deleted_job_ends(server: Server) -> None:
    """A job may end and be deleted between two polls, so its stream never sees its end."""
    with server.database.transaction() as session:
        job = make_job(session, server.project_id).id
    with following(server, f"/fine_tuning/jobs/{job}/stream") as messages:
        assert next(messages)["event"] == "state"
        delete(server, job)
        assert list(messages)[-1] == {"event": "end", "data": {"status": "deleted"}}


def test_deletion_between_poll_and_read(server: Server) -> None:
    """The stream of the project skips the job; the job's own stream ends."""
    with server.database.transaction() as session:
        jobs = {make_job(session, server.project_id).id for _ in range(2)}

    def delete_before_the_read(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "jobs.spec" in statement and jobs:
            delete(server, jobs.pop())

    async def run() -> None:
        hub = sse.Hub(server.database, JobReader(server.database), heartbeat_seconds=0.05)
        project = hub.project(server.project_id, strict=False)
        state = json.loads((await _next(project)).splitlines()[1].removeprefix("data: "))
        [other] = jobs - {state["id"]}
        jobs.remove(state["id"])
        event.listen(server.database.engine, "before_cursor_execute", delete_before_the_read)
        own = hub.job(server.project_id, other, 0, strict=False)
        assert await _next(own) == 'event: end\ndata: {"status":"deleted"}\n\n'
        assert await anext(own, None) is None
        event.remove(server.database.engine, "before_cursor_execute", delete_before_the_read)
        assert await anext(project) == sse.HEARTBEAT
        hub.close()
        assert [message async for message in project] == []

    asyncio.run(run())


async def _next(messages: AsyncIterator[str]) -> str:
    """Return the next message that is not a comment."""
    return await anext(message async for message in messages if message != sse.HEARTBEAT)


def delete(server: Server, job_id: str) -> None:
    """Cancel and delete a job at once, so that no poll sees its end."""
    actor = Actor(server.project_id)
    with server.database.transaction() as session:
        lifecycle.cancel(session, actor, job_id)
        deletion.delete_job(session, actor, job_id)
