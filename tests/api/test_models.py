"""Models through the official SDK."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import ModelDeleted

from app.core import ids
from app.core.models.tables import TrainedModel
from app.core.storage.local import SUMS
from tests.api.server import Server, new_project
from tests.setup_jobs import make_job


def publish(server: Server, directory: Path, base: str = "tiny") -> str:
    """Puts a trained adapter in place, as the end of a job does; returns its name."""
    directory.mkdir()
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").write_bytes(os.urandom(1_500_000))
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        name = ids.fine_tuned_model(base, "default", None)
        blob = f"jobs/{job.id}/a1/adapter"
        server.store.put_tree(blob, directory)
        session.add(TrainedModel(id=name, project_id=server.project_id, job_id=job.id, base_model=base, blob=blob))
    return name


def test_lists_pulled_base_models_and_own_adapters(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name = publish(server, tmp_path / "adapter")
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"tiny", name}
    assert models["tiny"].owned_by == "system"
    assert models[name].owned_by == server.project_id
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    assert [model.id for model in stranger.models.list()] == ["tiny"]


def test_names_with_slashes_and_colons(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name = publish(server, tmp_path / "adapter", base="Qwen/Qwen3-0.6B")
    assert name.startswith("ft:Qwen/Qwen3-0.6B:default::")
    assert client.models.retrieve(name).id == name
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(NotFoundError, match="not on this server yet") as caught:
        client.models.retrieve("Qwen/Qwen3-0.6B")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError, match="Known here"):
        client.models.retrieve("org/unknown")
    with pytest.raises(NotFoundError):
        client.models.retrieve("../../etc")


def test_delete(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name = publish(server, tmp_path / "adapter", base="Qwen/Qwen3-0.6B")
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    with pytest.raises(NotFoundError):
        stranger.models.delete(name)
    deleted = client.models.delete(name)
    assert isinstance(deleted, ModelDeleted)
    assert deleted.id == name
    with pytest.raises(NotFoundError):
        client.models.delete(name)
    with pytest.raises(BadRequestError, match="base model"):
        client.models.delete("tiny")


def test_download_is_a_tar_of_the_adapter(server: Server, tmp_path: Path) -> None:
    client = server.client()
    name = publish(server, tmp_path / "adapter", base="Qwen/Qwen3-0.6B")
    response = client.models.with_raw_response.retrieve(f"{name}/download")
    assert response.headers["content-type"] == "application/x-tar"
    assert ".tar" in response.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        content = {member.name: archive.extractfile(member) for member in archive}
        found = {name: stream.read() for name, stream in content.items() if stream is not None}
    assert found.pop(SUMS)
    assert found == {file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()}
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    for client_, model in ((stranger, name), (client, "tiny")):
        with pytest.raises(NotFoundError) as caught:
            client_.models.with_raw_response.retrieve(f"{model}/download")
        assert caught.value.code == "model_not_found"
