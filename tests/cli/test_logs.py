"""Logs of a whole installation: every process logs one JSON object per line, with request and job ids."""

import json
import re
from pathlib import Path
from typing import Any

import httpx

from app.local.stack import Stack
from tests.waiting import eventually


def lines(path: Path) -> list[dict[str, Any]]:
    """Parse the log lines; Celery's banner on standard output is skipped."""
    text = path.read_text()
    assert not re.search(r"^(\[\d{4}-|INFO:|WARNING:|ERROR:)", text, re.MULTILINE), "a library uses its own log format"
    whole = (line for line in text.splitlines(keepends=True) if line.endswith("\n"))
    return [json.loads(line) for line in whole if line.startswith("{")]


def test_log_lines_have_ids(stack: Stack, succeeded_job: str) -> None:
    job_id = succeeded_job
    answer = httpx.get(f"{stack.base_url}/fine_tuning/jobs/{job_id}?secret=hunter2", trust_env=False)
    logs = stack.state_dir / "logs"

    request_id = answer.headers["x-request-id"]
    eventually(lambda: any(line.get("request_id") == request_id for line in lines(logs / "api.log")))
    api = lines(logs / "api.log")
    made = next(line for line in api if line["event"] == "job.created" and line["job"] == job_id)
    answered = {line["request_id"]: line for line in api if line["event"] == "request.answered"}
    assert answered[made["request_id"]]["path"] == "/v1/fine_tuning/jobs"
    refused = answered[request_id]
    assert (refused["status"], refused["method"], refused["job"]) == (401, "GET", job_id)
    assert "hunter2" not in (logs / "api.log").read_text()
    assert any(line.get("logger", "").startswith("uvicorn") for line in api)
    assert not any(line.get("path") in ("/healthz", "/readyz") for line in api if line.get("status") == 200)

    def worker() -> list[dict[str, Any]]:
        return [line for line in lines(logs / "worker-train.log") if line.get("job") == job_id]

    expected = {"attempt.started", "trainer.ended", "job.succeeded", "attempt.ended"}
    eventually(lambda: expected <= {line["event"] for line in worker()})
    assert {line["attempt"] for line in worker()} == {1}
    assert all({"event", "level", "timestamp"} <= line.keys() for line in api + worker())
