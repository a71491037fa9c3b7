"""A whole installation with its blobs in an S3-compatible store: no blob stays on the machines."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from app.core.settings import Settings
from app.core.storage.opening import open_store
from tests.api.server import new_project, serve
from tests.s3_server import BUCKET, CREDENTIALS
from tests.tiny_model import write_rows
from tests.waiting import eventually
from tests.worker.conftest import Plant

SMALL: dict[str, Any] = {
    "type": "supervised",
    "supervised": {"hyperparameters": {"batch_size": 2, "max_steps": 4, "checkpoint_interval": 2}},
}


@pytest.fixture
def cloud(plant: Plant, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """The installation with the bucket as its blob store."""
    url = f"s3://{BUCKET}/{plant.directory.name}"
    plant.environment |= CREDENTIALS | {"GROUPTUNE_STORAGE_URL": url, "GROUPTUNE_STORAGE_ENDPOINT": s3_address}
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    plant.store = open_store(plant.directory, url, s3_address, "us-east-1")
    return plant


def train(client: OpenAI, **values: Any) -> Any:
    job_id = client.fine_tuning.jobs.create(method=SMALL, **values).id  # type: ignore[arg-type]
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).status in ("succeeded", "failed"))
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "succeeded", job.error
    return job


def test_jobs_from_upload_to_download_on_s3(cloud: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    _, key = new_project(cloud.database, "cloud")
    rows = write_rows(cloud.directory / "rows.jsonl", 8)
    with (
        serve(settings) as url,
        OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        cloud.default_worker(),
        cloud.train_worker(),
    ):
        assert client.get(f"{url}/readyz", cast_to=dict[str, str]) == {"status": "ok"}
        file = client.files.create(file=rows, purpose="fine-tune")
        upload = client.uploads.upload_file_chunked(
            file=rows, mime_type="application/jsonl", purpose="fine-tune", part_size=200
        )
        assert upload.file is not None
        assert client.files.content(upload.file.id).read() == rows.read_bytes()

        first = train(client, model="tiny", training_file=file.id)
        second = train(client, model=first.fine_tuned_model, training_file=upload.file.id)

        for job in (first, second):
            answer = client.get(f"/models/{job.fine_tuned_model}/download", cast_to=bytes)
            with tarfile.open(fileobj=io.BytesIO(answer)) as archive:
                assert "adapter_model.safetensors" in archive.getnames()
            assert client.files.content(job.result_files[0]).read().startswith(b"step,")
        client.files.delete(file.id)
    assert cloud.store.list("files") == [f"files/{upload.file.id}"]
    assert {key.split("/")[1] for key in cloud.store.list("jobs")} == {first.id, second.id}
    assert not (settings.storage_dir).exists()
    assert not list(Path(settings.runs_dir).rglob("*.safetensors"))
