"""`grouptune jobs logs`: the log of each attempt, followed to the job's end."""

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from app.cli.jobs.logs import _followed
from app.cli.ui.exits import ExitCode
from app.client import Client, Json
from tests.cli.conftest import Run
from tests.http_server import Received, Reply, http_server

JOB = "ftjob-abcdefghijklmnopqrstuvwx"
TEXTS = {1: "one\ntwo\n", 2: "three\n"}


class Attempts:
    """A server of one job with two attempts. Each poll ends what the previous one saw."""

    def __init__(self) -> None:
        self.status = "running"
        self.written = {1: 4}
        self.ended: set[int] = set()
        self.polls: list[tuple[int | None, int]] = []

    def __call__(self, request: Received) -> Reply:
        path = urlsplit(request.path)
        body = self._log(dict(parse_qsl(path.query))) if path.path.endswith("logs") else self._job()
        return Reply(json.dumps(body).encode())

    def _job(self) -> Json:
        return {"id": JOB, "status": self.status}

    def _log(self, query: dict[str, str]) -> Json:
        latest, after = max(self.written), int(query["after"])
        attempt = int(query.get("attempt", latest))
        self.polls.append((attempt, after))
        text = TEXTS[attempt][after : self.written[attempt]]
        return {
            "attempt": attempt,
            "latest_attempt": latest,
            "text": text,
            "next": after + len(text),
            "omitted": 0,
            "has_more": False,
            "complete": attempt in self.ended,
        }

    def step(self, _seconds: float) -> None:
        """What happens during a pause of the client: more text, the end of an attempt, the end of the job."""
        if self.written == {1: 4}:
            self.written[1] = 8
        elif self.ended == set():
            self.ended.add(1)
        elif len(self.written) == 1:
            self.written[2] = 6
        else:
            self.ended.add(2)
            self.status = "succeeded"


def test_log_is_followed_through_all_attempts() -> None:
    attempts = Attempts()
    with http_server(attempts) as url, Client(f"{url}/v1", "key") as client:
        pages = list(_followed(client, JOB, None, pause=attempts.step))
    texts = [(page["attempt"], page["text"]) for page in pages if page["text"]]
    assert texts == [(1, "one\n"), (1, "two\n"), (2, "three\n")]
    assert attempts.polls[-1] == (2, 6)


def test_one_attempt_is_followed_to_its_end() -> None:
    attempts = Attempts()
    with http_server(attempts) as url, Client(f"{url}/v1", "key") as client:
        pages = list(_followed(client, JOB, 1, pause=attempts.step))
    assert "".join(page["text"] for page in pages) == "one\ntwo\n"
    assert {attempt for attempt, _ in attempts.polls} == {1}


def test_logs_prints_what_the_server_stores(grouptune: Run, stack: Any, succeeded_job: str) -> None:
    url = f"{stack.base_url}/fine_tuning/jobs/{succeeded_job}/logs"
    log = httpx.get(url, headers={"authorization": f"Bearer {stack.api_key}"}).json()
    assert log["complete"]
    for words in ((), ("--attempt", 1), ("--follow",)):
        shown = grouptune("jobs", "logs", succeeded_job[-12:], *words)
        assert (shown.returncode, shown.stdout) == (ExitCode.ok, log["text"]), shown.stderr
    refused = grouptune("jobs", "logs", succeeded_job, "--attempt", 9)
    assert refused.returncode == ExitCode.error
    assert "no attempt 9: its latest attempt is 1" in refused.stderr
