"""Lint: groups without contrast are found before a job starts, and every job reports what its file would teach."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.api.jobs import GRADER, create, gft, refused
from tests.api.server import Server

FLAT = {"expert": 1, "teacher": 2, "self": 0}
JUDGE = {"type": "score_model", "model": "judge", "input": [{"role": "user", "content": "{{sample.output_text}}"}]}


def upload(client: OpenAI, path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return client.files.create(file=path, purpose="fine-tune").id


def row(expert: str, *teachers: str) -> dict[str, Any]:
    return {"prompt": "1+1=", "completion": expert, "teacher_responses": list(teachers), "reference_answer": "2"}


@pytest.fixture
def flat_file(server: Server, client: OpenAI, tmp_path: Path) -> str:
    """Upload and validate two rows whose answers all get the same reward."""
    file_id = upload(client, tmp_path / "flat.jsonl", row("2", "2", "2"), row("3", "4"))
    server.validate_files()
    return file_id


def lint_of(client: OpenAI, job_id: str) -> Any:
    return client.get(f"/fine_tuning/jobs/{job_id}/lint", cast_to=object)


def test_a_file_is_linted_with_a_grader(server: Server, client: OpenAI, flat_file: str, tmp_path: Path) -> None:
    lint: Any = client.post(f"/files/{flat_file}/lint", body={"grader": GRADER, "group": FLAT}, cast_to=object)
    report = lint["report"]
    assert (report["rows_graded"], report["signal_share"], report["signal_share_limit"]) == (2, 0, 0)
    assert [finding["line"] for finding in report["errors"]] == [2]
    assert [finding["line"] for finding in report["warnings"]] == [1, 2]
    assert report["group"]["self"] == 0
    assert "1 of 2 demonstrations fail" in lint["summary"]
    assert report["rewards"] == [{"start": 0, "end": 0, "answers": 2}, {"start": 1, "end": 1, "answers": 3}]
    assert report["worst"][0] == {"line": 2, "source": "expert", "text": "3", "reward": 0, "error": None}
    few: Any = client.post(f"/files/{flat_file}/lint", body={"grader": GRADER, "answers": 2}, cast_to=object)
    assert few["report"]["sample"].startswith("1 of 2 rows")
    waiting = upload(client, tmp_path / "waiting.jsonl", row("2"))
    broken = upload(client, tmp_path / "broken.jsonl", {"prompt": ""})
    for file_id, body, message in (
        (waiting, {"grader": GRADER}, "not validated yet"),
        (flat_file, {"grader": JUDGE}, "may cost money"),
    ):
        with pytest.raises(BadRequestError, match=message):
            client.post(f"/files/{file_id}/lint", body=body, cast_to=object)
    with pytest.raises(BadRequestError, match="GROUPTUNE_JUDGE_URL"):
        client.post(f"/files/{flat_file}/lint", body={"grader": JUDGE, "remote": True}, cast_to=object)
    server.validate_files()
    with pytest.raises(BadRequestError, match="line 1:"):
        client.post(f"/files/{broken}/lint", body={"grader": GRADER}, cast_to=object)


def test_job_without_contrast_is_refused(client: OpenAI, flat_file: str) -> None:
    error = refused(client, flat_file, gft(group=FLAT))
    assert (error.code, error.param) == ("no_contrast", "method.gft.group")
    assert "line 1: all 3 known answers of the group earn 1; line 2: all 2" in error.message
    body = {"model": "tiny", "training_file": flat_file, "method": gft(group=FLAT)}
    lint: Any = client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)
    assert (lint["valid"], lint["errors"][0]["code"], lint["lint"]["rows_graded"]) == (False, "no_contrast", 2)
    typed = {"reinforcement": {"grader": GRADER}, "type": "reinforcement"}
    with pytest.raises(BadRequestError) as caught:
        create(client, flat_file, typed, extra_body={"gft": {"group": FLAT}})
    assert caught.value.param == "gft.group"


def test_job_with_rollouts_is_queued_during_lint(server: Server, client: OpenAI, flat_file: str) -> None:
    job = create(client, flat_file, gft())
    assert job.status == "queued"
    assert lint_of(client, job.id)["status"] == "pending"
    server.lint_jobs()
    lint = lint_of(client, job.id)
    assert (lint["status"], lint["report"]["experts"]["passed"], lint["reason"]) == ("done", 1, None)
    newest = client.fine_tuning.jobs.list_events(job.id).data[0]
    assert newest.level == "warn"
    assert newest.message.startswith(lint["summary"])
    assert newest.message.endswith("Train without it: `demonstrations: graded`")
    assert newest.data["lint"]["signal_share_limit"] == 1  # type: ignore[index]
    imitation = create(client, flat_file, {"type": "supervised"})
    assert "no groups" in lint_of(client, imitation.id)["reason"]


def test_job_on_a_new_file_waits_for_lint(server: Server, client: OpenAI, tmp_path: Path) -> None:
    flat = upload(client, tmp_path / "flat.jsonl", row("2", "2"))
    good = upload(client, tmp_path / "good.jsonl", row("2", "3"))
    doomed, fine = (create(client, file_id, gft(group=FLAT)).id for file_id in (flat, good))
    server.validate_files()
    for job_id in (doomed, fine):
        assert client.fine_tuning.jobs.retrieve(job_id).status == "validating_files"
    server.lint_jobs()
    assert client.fine_tuning.jobs.retrieve(fine).status == "queued"
    job = client.fine_tuning.jobs.retrieve(doomed)
    assert (job.status, job.error.code if job.error else "") == ("failed", "no_contrast")
    assert lint_of(client, doomed)["report"]["warnings"][0]["line"] == 1
    assert create(client, good, gft(group=FLAT)).status == "queued"


def test_failed_lint_does_not_block_the_job(server: Server, client: OpenAI, tmp_path: Path) -> None:
    file_id = upload(client, tmp_path / "flat.jsonl", row("2", "2"))
    job_id = create(client, file_id, gft(group=FLAT)).id
    server.validate_files()
    server.store.delete(f"files/{file_id}")
    server.lint_jobs()
    assert client.fine_tuning.jobs.retrieve(job_id).status == "queued"
    assert any("could not be linted" in event.message for event in client.fine_tuning.jobs.list_events(job_id))
    assert lint_of(client, job_id)["status"] == "none"
