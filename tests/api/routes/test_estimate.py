"""Estimates over HTTP."""

from typing import Any

import pytest
from openai import BadRequestError, ConflictError, OpenAI

from app.core.spec.hardware import Hardware
from app.core.workers.tables import WorkerState
from tests.api.jobs import create, gft
from tests.api.routes.test_workers import CPU, GPU, appear
from tests.api.server import Server
from tests.waiting import eventually

MODEL = "qwen2.5-1.5b-instruct"
"""Add a base model that is in the catalog but not downloaded: 1.54 billion weights."""
PHONE = Hardware(accelerator="NVIDIA T400", accelerators=1, accelerator_memory_bytes=2 * 10**9, memory_bytes=8 * 10**9)


def estimate(client: OpenAI, training_file: str, **body: Any) -> Any:
    sent = {"model": MODEL, "training_file": training_file, "method": gft()} | body
    return client.post("/fine_tuning/estimate", body=sent, cast_to=object)


def test_estimate_has_every_worker(server: Server, client: OpenAI, training_file: str) -> None:
    appear(server, "small:1", PHONE)
    appear(server, "gpu:1", GPU)
    appear(server, "leaving:1", GPU, WorkerState.draining)
    result = estimate(client, training_file, validation_file=training_file)
    assert (result["base_model"], result["device"], result["verdict"]) == (MODEL, "NVIDIA L4", "fits")
    assert "of the 24 GB of NVIDIA L4 (worker gpu:1)." in result["reason"]
    shown = [(worker["id"], worker["verdict"], worker["memory_bytes"]) for worker in result["workers"]]
    assert shown == [("gpu:1", "fits", 24 * 10**9), ("small:1", "does_not_fit", 2 * 10**9)]
    # 20 rows in 5 steps of 4, 10 times; each row a demonstration, 3 teacher answers and 4 rollouts.
    assert (result["steps"], result["groups"], result["rollouts"]) == (50, 200, 800)
    # Ten held-out rows select at 11 evaluations, and the other ten report before and after.
    assert result["grader_calls"] == 200 * 8 + 11 * 10 + 2 * 10
    assert (result["teacher_requests"], result["based_on"]["same_jobs"]) == (0, 0)
    for name in ("seconds", "peak_memory_bytes"):
        assert 0 < result[name]["low"] < result[name]["expected"] < result[name]["high"]
    assert result["peak_memory_bytes"]["expected"] > 2 * 1.54e9
    assert set(result["parts"]) == {"setup", "rollout", "grading", "update", "rest"}
    assert result["tokens"]["trained"] == result["tokens"]["response"]
    assert list(client.fine_tuning.jobs.list()) == []


def test_missing_estimate_is_explained(server: Server, client: OpenAI, training_file: str) -> None:
    alone = estimate(client, training_file)
    assert (alone["verdict"], alone["seconds"], alone["workers"]) == ("no_worker", None, [])
    assert alone["tokens"]["prompt"]["expected"] > 0
    appear(server, "gpu:1", PHONE)
    assert estimate(client, training_file)["verdict"] == "does_not_fit"
    with pytest.raises(BadRequestError) as unknown:
        estimate(client, training_file, model="tiny")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_size_unknown")
    with pytest.raises(BadRequestError) as wrong:
        estimate(client, training_file, method=gft(grader={"type": "math", "reference": "{{item.nope}}"}))
    assert wrong.value.param == "method.gft.grader.reference"
    fresh = client.files.create(file=b'{"prompt": "1+1=", "completion": "2"}\n', purpose="fine-tune")
    with pytest.raises(ConflictError) as early:
        estimate(client, fresh.id, method={"type": "supervised"})
    assert early.value.code == "file_not_processed"


def test_a_new_job_keeps_its_estimate(server: Server, client: OpenAI, training_file: str) -> None:
    appear(server, "cpu:1", CPU)
    expected = estimate(client, training_file)
    job_id = create(client, training_file, gft(), model=MODEL).id
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).to_dict()["estimate"])
    kept: Any = client.fine_tuning.jobs.retrieve(job_id).to_dict()
    assert kept["estimate"] == {name: expected[name] for name in kept["estimate"]}
    assert kept["measured"] is None
    no_size = create(client, training_file, gft()).id
    assert client.fine_tuning.jobs.retrieve(no_size).to_dict()["estimate"] is None
