"""`GET /v1/fine_tuning/jobs/{id}/logs`: pages, following, text, and deletion with the job."""

import re
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI
from sqlalchemy import select

from app.core.accounts.audit import Actor
from app.core.jobs import attempt_logs, leases, lifecycle, outcomes
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import StopRequest
from app.core.jobs.tables import LogPart
from tests.api.server import Server
from tests.setup_jobs import make_job


@pytest.fixture
def claim(server: Server) -> Claim:
    with server.database.transaction() as session:
        make_job(session, server.project_id)
        claim = leases.claim(session, "w", 60)
    assert claim is not None
    return claim


def write(server: Server, claim: Claim, text: str, start: int = 0) -> None:
    with server.database.transaction() as session:
        attempt_logs.append(session, claim, start, text)


def logs(client: OpenAI, job_id: str, **query: Any) -> Any:
    return client.get(f"/fine_tuning/jobs/{job_id}/logs", cast_to=object, options={"params": query})


def test_log_can_be_followed(server: Server, client: OpenAI, claim: Claim) -> None:
    write(server, claim, "one\n")
    first = logs(client, claim.job_id)
    assert first == {
        "object": "fine_tuning.job.log",
        "job_id": claim.job_id,
        "attempt": 1,
        "latest_attempt": 1,
        "start": 0,
        "text": "one\n",
        "next": 4,
        "omitted": 0,
        "has_more": False,
        "complete": False,
    }
    write(server, claim, "two\n", 4)
    assert logs(client, claim.job_id, after=first["next"])["text"] == "two\n"
    part = logs(client, claim.job_id, after=2, limit=3)
    assert (part["text"], part["next"], part["has_more"]) == ("e\nt", 5, True)
    with server.database.transaction() as session:
        outcomes.stop(session, claim, StopRequest.drain)
    assert [logs(client, claim.job_id, after=after)["complete"] for after in (0, 8)] == [True, True]
    assert not logs(client, claim.job_id, limit=3)["complete"]


def test_each_attempt_has_its_log(server: Server, client: OpenAI, claim: Claim) -> None:
    write(server, claim, "first\n")
    with server.database.transaction() as session:
        outcomes.stop(session, claim, StopRequest.drain)
        second = leases.claim(session, "w", 60)
    assert second is not None
    assert logs(client, claim.job_id)["text"] == ""
    write(server, second, "second\n")
    assert [logs(client, claim.job_id, attempt=number)["text"] for number in (1, 2)] == ["first\n", "second\n"]
    assert (logs(client, claim.job_id)["attempt"], logs(client, claim.job_id, attempt=1)["latest_attempt"]) == (2, 2)
    with pytest.raises(NotFoundError, match="no attempt 3: its latest attempt is 2") as caught:
        logs(client, claim.job_id, attempt=3)
    assert caught.value.param == "attempt"


def test_job_without_attempts_has_an_empty_log(server: Server, client: OpenAI) -> None:
    with server.database.transaction() as session:
        job_id = make_job(session, server.project_id).id
    log = logs(client, job_id)
    assert (log["attempt"], log["latest_attempt"], log["text"], log["complete"]) == (None, None, "", False)


def test_text_names_what_is_left_out(server: Server, claim: Claim) -> None:
    keep = attempt_logs.KEEP_FIRST + attempt_logs.KEEP_LAST
    write(server, claim, "first\n" + "x" * keep)
    write(server, claim, "y" * keep + "\nlast\n", keep + 6)
    path = f"{server.url}/v1/fine_tuning/jobs/{claim.job_id}/logs?format=text"
    answer = httpx.get(path, headers={"authorization": f"Bearer {server.api_key}"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{claim.job_id}-attempt-1.log"'
    first, count, last = re.split(r"\n\[\.\.\. ([\d,]+) characters left out \.\.\.\]\n", answer.text)
    assert first.startswith("first\nx")
    assert last.endswith("y\nlast\n")
    assert len(first) + int(count.replace(",", "")) + len(last) == 2 * keep + 12


def test_log_is_deleted_with_its_job(server: Server, client: OpenAI, claim: Claim) -> None:
    write(server, claim, "one\n")
    with server.database.transaction() as session:
        lifecycle.cancel(session, Actor(server.project_id), claim.job_id)
        outcomes.stop(session, claim, StopRequest.cancel)
    client.delete(f"/fine_tuning/jobs/{claim.job_id}", cast_to=object)
    with server.database.reading() as session:
        assert session.scalars(select(LogPart)).all() == []
    with pytest.raises(NotFoundError):
        logs(client, claim.job_id)
