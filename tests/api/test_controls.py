"""Jobs with a control through the official SDK."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, RateLimitError

from app.core.accounts.tables import Project
from tests.api.jobs import GRADER, create, gft, refused
from tests.api.routes.test_workers import CPU, appear
from tests.api.server import Server, lenient_and_strict
from tests.tiny_model import write_pairs


def supervised(**settings: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": settings}


@lenient_and_strict
def test_control_is_a_linked_job(client: OpenAI, training_file: str) -> None:
    body = {"control": "supervised", "gates": ["vs control >= 0"], "alias": "prod"}
    sent: Any = {"validation_file": training_file, "seed": 3, "extra_body": body}
    job = create(client, training_file, gft(), **sent)
    control = client.fine_tuning.jobs.retrieve(job.control["job_id"])
    assert job.control == {"method": "supervised", "job_id": control.id, "status": "queued"} | dict.fromkeys(
        ("verdict", "metric", "control", "job", "difference", "low", "high", "reason")
    ) | {"rows": 0}
    assert job.control_of is None
    shown = control.to_dict()
    assert (shown["control"], shown["control_of"], shown["gates"], shown["alias"]) == (None, job.id, [], None)
    assert (control.seed, control.training_file, control.validation_file) == (3, training_file, training_file)
    assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id, control.id]
    client.fine_tuning.jobs.cancel(job.id)
    assert client.fine_tuning.jobs.retrieve(control.id).status == "cancelled"


@pytest.mark.parametrize(
    ("method", "held_out", "body", "param", "message"),
    [
        (gft(), False, {"control": "supervised"}, "control", "send a validation_file"),
        (supervised(), True, {"control": "dft"}, "control", r"set method\.supervised\.grader"),
        (gft(), True, {"control": "gft"}, "control", "the job's own method, 'gft'"),
        (gft(), True, {"control": "dpo"}, "control", r"The control \(dpo\): .*two answers to the same prompt"),
        (gft(), True, {"control": "magic"}, "control", "supervised"),
        (gft(), True, {"gates": ["vs control >= 0"]}, "gates.0", "set `control` to a method"),
    ],
)
def test_useless_control_is_refused(
    client: OpenAI, training_file: str, method: Any, held_out: bool, body: dict[str, Any], param: str, message: str
) -> None:
    files = {"validation_file": training_file} if held_out else {}
    error = refused(client, training_file, method, **files, extra_body=body)
    assert error.param == param
    assert re.search(message, str(error))


def test_pairs_feed_no_supervised_control(client: OpenAI, server: Server, tmp_path: Path) -> None:
    pairs = client.files.create(file=write_pairs(tmp_path / "pairs.jsonl", 20), purpose="fine-tune").id
    server.validate_files()
    method = {"type": "dpo", "dpo": {"grader": GRADER | {"reference": "4"}}}
    error = refused(client, pairs, method, validation_file=pairs, extra_body={"control": "supervised"})
    assert (error.param, error.code) == ("control", "invalid_control")


def test_validation_lists_problems_of_control(client: OpenAI, training_file: str) -> None:
    body = {"model": "tiny", "training_file": training_file, "method": gft(), "control": "supervised"}
    found: Any = client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)
    assert [problem["param"] for problem in found["errors"]] == ["control"]
    found = client.post("/fine_tuning/jobs/validate", body=body | {"validation_file": training_file}, cast_to=object)
    assert found["valid"]


def test_lint_of_the_job_serves_its_control(client: OpenAI, training_file: str) -> None:
    """The demonstrations were graded before the job was accepted, so the control trains without waiting for a lint."""
    graded = supervised(grader=GRADER, demonstrations="graded")
    job = create(client, training_file, graded, validation_file=training_file, extra_body={"control": "gft"})
    assert (job.status, job.control["status"]) == ("queued", "queued")


def test_control_needs_a_place_in_the_queue(client: OpenAI, server: Server, training_file: str) -> None:
    with server.database.transaction() as session:
        session.get_one(Project, server.project_id).max_queued_jobs = 1
    with pytest.raises(RateLimitError, match="This job and its control are 2"):
        create(client, training_file, gft(), validation_file=training_file, extra_body={"control": "supervised"})
    assert list(client.fine_tuning.jobs.list()) == []


def test_estimate_has_the_time_of_the_control(client: OpenAI, server: Server, training_file: str) -> None:
    appear(server, "cpu:1", CPU)
    body = {"model": "qwen2.5-1.5b-instruct", "training_file": training_file, "validation_file": training_file}
    found: Any = client.post(
        "/fine_tuning/estimate", body=body | {"method": gft(), "control": "supervised"}, cast_to=object
    )
    assert (found["control"]["method"], found["control"]["steps"]) == ("supervised", found["steps"])
    assert 0 < found["control"]["seconds"]["expected"] < found["seconds"]["expected"]
