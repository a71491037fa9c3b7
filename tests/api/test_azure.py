"""Unmodified Azure clients: the path `/openai`, the query `api-version`, and the header `api-key`."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncAzureOpenAI, AuthenticationError, AzureOpenAI, DefaultHttpxClient, OpenAI

from tests.api.jobs import GRADER
from tests.api.server import CERTIFICATES, Server

VERSION = "2025-04-01-preview"


def azure(server: Server, **fields: Any) -> AzureOpenAI:
    options: dict[str, Any] = {"api_key": server.api_key} | fields
    http_client = DefaultHttpxClient(verify=CERTIFICATES)
    client = AzureOpenAI(
        azure_endpoint=server.url, api_version=VERSION, max_retries=0, http_client=http_client, **options
    )
    return server.clients.enter_context(client)


def test_azure_client_runs_a_whole_job(server: Server, rows: Path) -> None:
    client = azure(server)
    file = client.files.create(file=rows, purpose="fine-tune")
    server.validate_files()
    assert client.files.wait_for_processing(file.id).status == "processed"
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        method={"type": "reinforcement", "reinforcement": {"grader": GRADER}},  # type: ignore[arg-type]
        extra_body={"trainingType": "globalstandard"},
    )
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert [found.id for found in client.fine_tuning.jobs.list()] == [job.id]
    warnings = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    assert ["`trainingType` has no effect" in event.message for event in warnings] == [True]
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert client.fine_tuning.jobs.pause(job.id).id == job.id
    assert client.fine_tuning.jobs.resume(job.id).id == job.id
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.files.content(file.id).read() == rows.read_bytes()
    assert "tiny" in [model.id for model in client.models.list()]


def test_azure_upload_in_parts(server: Server, rows: Path) -> None:
    upload = azure(server).uploads.upload_file_chunked(file=rows, mime_type="text/jsonl", purpose="fine-tune")
    assert upload.file is not None
    assert upload.file.bytes == rows.stat().st_size


def test_async_azure_client(server: Server) -> None:
    async def listed() -> list[Any]:
        async with AsyncAzureOpenAI(azure_endpoint=server.url, api_version=VERSION, api_key=server.api_key) as client:
            return [job async for job in client.fine_tuning.jobs.list()]

    assert asyncio.run(listed()) == []


def test_azure_token_is_a_key(server: Server) -> None:
    """`azure_ad_token` is sent as a bearer token."""
    assert list(azure(server, api_key=None, azure_ad_token=server.api_key).fine_tuning.jobs.list()) == []


def test_v1_form_of_azure(server: Server) -> None:
    """Azure's current form is OpenAI's own client with another address."""
    client = OpenAI(base_url=f"{server.url}/openai/v1/", api_key=server.api_key)
    with server.clients.enter_context(client):
        assert list(client.fine_tuning.jobs.list()) == []


def test_wrong_azure_key_is_refused(server: Server) -> None:
    with pytest.raises(AuthenticationError, match="gt_live_"):
        azure(server, api_key="nothing").fine_tuning.jobs.list()

    missing = httpx.get(f"{server.url}/openai/fine_tuning/jobs")
    assert (missing.status_code, "`api-key`" in missing.text) == (401, True)


def test_deployments_are_models(server: Server) -> None:
    """The SDK puts the model of inference requests into the path; it is in the body as well."""
    answer = httpx.post(f"{server.url}/openai/deployments/tiny/chat/completions", headers={"api-key": server.api_key})
    plain = httpx.post(f"{server.url}/v1/chat/completions", headers={"api-key": server.api_key})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        plain.status_code,
        plain.json()["error"]["message"],
    )


def test_repeated_azure_create_is_one_job(server: Server, training_file: str) -> None:
    client = azure(server)
    create = {"model": "tiny", "training_file": training_file, "extra_headers": {"Idempotency-Key": "one"}}
    assert client.fine_tuning.jobs.create(**create).id == client.fine_tuning.jobs.create(**create).id  # type: ignore[arg-type]
