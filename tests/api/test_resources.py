"""Jobs that request GPUs, through the official SDK."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from app.core.jobs import leases
from tests.api.jobs import create, refused
from tests.api.routes.test_workers import CPU, GPU, appear
from tests.api.server import Server

FOUR = GPU.model_copy(update={"accelerators": 4})


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (None, {"gpus": "auto", "nodes": 1}),
        ("auto", {"gpus": "auto", "nodes": 1}),
        ({"gpus": 2}, {"gpus": 2, "nodes": 1}),
    ],
)
def test_job_shows_its_resources(client: OpenAI, server: Server, training_file: str, sent: Any, shown: Any) -> None:
    appear(server, "large:1", FOUR)
    job = create(client, training_file, extra_body={} if sent is None else {"resources": sent})
    assert client.fine_tuning.jobs.retrieve(job.id).to_dict()["resources"] == shown


@pytest.mark.parametrize(
    ("sent", "param", "message"),
    [
        ({"gpus": 8}, "resources.gpus", "large:1 has 4 x NVIDIA L4"),
        ({"gpus": 0}, "resources.gpus", "greater than or equal to 1"),
        ({"nodes": 2}, "resources.nodes", "of one kind"),
        ({"tpus": 1}, "resources.tpus", "tpus"),
    ],
)
def test_resources_that_no_worker_offers_are_refused(
    client: OpenAI, server: Server, training_file: str, sent: Any, param: str, message: str
) -> None:
    appear(server, "large:1", FOUR)
    error = refused(client, training_file, extra_body={"resources": sent})
    assert error.param == param
    assert message in str(error)


def test_estimate_lists_workers_that_fit(client: OpenAI, server: Server, training_file: str) -> None:
    for name, hardware in (("small:1", CPU), ("large:1", FOUR)):
        appear(server, name, hardware)
    body = {"model": "qwen2.5-1.5b-instruct", "training_file": training_file, "resources": {"gpus": 2}}
    found: Any = client.post("/fine_tuning/estimate", body=body, cast_to=object)
    assert [(worker["id"], worker["device"]) for worker in found["workers"]] == [("large:1", "2 x NVIDIA L4")]


def test_waiting_job_changes_its_resources(client: OpenAI, server: Server, training_file: str) -> None:
    appear(server, "large:1", FOUR)
    job = create(client, training_file, extra_body={"resources": {"gpus": 4}})
    path = f"/fine_tuning/jobs/{job.id}"
    with pytest.raises(BadRequestError, match="Request at most 4 GPUs"):
        client.post(path, body={"resources": {"gpus": 8}}, cast_to=object)
    changed: Any = client.post(path, body={"resources": {"gpus": 2}}, cast_to=object)
    assert changed["resources"] == {"gpus": 2, "nodes": 1}
    assert (
        client.fine_tuning.jobs.list_events(job.id).data[0].message == "The job now requests 1 worker with 2 GPUs each"
    )
    with server.database.transaction() as session:
        claim = leases.claim(session, "large:1", 60, hardware=FOUR)
    assert claim is not None
    assert claim.processes == 2
    with pytest.raises(BadRequestError, match="Pause it, change its resources"):
        client.post(path, body={"resources": "auto"}, cast_to=object)
