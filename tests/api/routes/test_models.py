"""Models through the official SDK."""

import gc
import hashlib
import io
import json
import os
import struct
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import ModelDeleted

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.files.tables import File
from app.core.jobs import checkpoints, leases, lifecycle, outcomes
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.jobs.state_machine import StopRequest
from app.core.jobs.tables import Job
from app.core.models.tables import TrainedModel
from app.core.settings import Settings
from app.core.spec.hardware import Hardware
from app.core.spec.job import JobSpec, Lora
from app.core.spec.reports import Finished
from app.core.storage.blobs import SUMS
from app.core.workers import presence
from app.core.workers.tables import WorkerState
from tests.api.jobs import create
from tests.api.server import Server, lenient_and_strict, new_project, serve, variant
from tests.setup_jobs import make_job, metrics_csv, stored_file
from tests.waiting import eventually


def write_adapter(directory: Path) -> Path:
    """Write PEFT's two files, with random weights."""
    directory.mkdir()
    config: dict[str, Any] = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "use_dora": False, "use_rslora": False}
    config["target_modules"] = ["v_proj", "q_proj"]
    (directory / "adapter_config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "U8", "shape": [1_500_000], "data_offsets": [0, 1_500_000]}}).encode()
    content = struct.pack("<Q", len(header)) + header + os.urandom(1_500_000)
    (directory / "adapter_model.safetensors").write_bytes(content)
    return directory


def publish(server: Server, directory: Path, base: str = "tiny") -> str:
    """Store a trained adapter as a finished job does; return its name."""
    write_adapter(directory)
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        lifecycle.cancel(session, Actor(server.project_id), job.id)
        name = ids.fine_tuned_model(base, "default", None, job.id)
        blob = f"jobs/{job.id}/a1/adapter"
        server.store.put_tree(blob, directory)
        session.add(TrainedModel(id=name, project_id=server.project_id, job_id=job.id, base_model=base, blob=blob))
    return name


def publish_checkpoint(
    server: Server, directory: Path, base: str = "tiny", step: int = 4, has_adapter: bool = True
) -> str:
    """Store a checkpoint as a running job does, and end the job; return the checkpoint's name."""
    write_adapter(directory)
    (directory / "README.md").write_text("# card")
    (directory / "optimizer_state.safetensors").write_bytes(b"moments")
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        job.spec = job.spec | {"model": base}
        session.flush()
        claim = leases.claim(session, "test", 60)
        assert claim is not None
        blob = f"jobs/{job.id}/a1/checkpoints/step-{step}"
        server.store.put_tree(blob, directory)
        checkpoints.record(session, claim, StoredCheckpoint(step, blob, {"loss": 1.0}, has_adapter))
        outcomes.stop(session, claim, StopRequest.cancel)
    client = server.client()
    name = client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
    assert name == f"ft:{base}:default::{job.id[-8:]}:ckpt-step-{step}"
    return name


@pytest.mark.parametrize(
    ("damage", "lora", "param", "message"),
    [
        ("truncate", {}, "model", "adapter_model.safetensors is truncated"),
        ("remove", {}, "model", "holds nothing under"),
        (None, {"r": 16}, "r", "The adapter to start from has r 8, and the job 16. Omit the field"),
        (None, {"alpha": 32, "r": 8}, "alpha", "has alpha 16, and the job 32"),
        (
            None,
            {"target_modules": ["q_proj"]},
            "target_modules",
            "q_proj, v_proj, and the job q_proj",
        ),
        (None, {"use_dora": True}, "use_dora", "has use_dora False"),
        (None, {}, None, ""),
        (None, {"r": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}, None, ""),
    ],
)
def test_start_adapter_is_checked_before_the_job(
    server: Server,
    client: OpenAI,
    training_file: str,
    tmp_path: Path,
    damage: str | None,
    lora: dict[str, Any],
    param: str | None,
    message: str,
) -> None:
    name = publish(server, tmp_path / "adapter")
    with server.database.transaction() as session:
        key = f"{session.get_one(TrainedModel, name).blob}/adapter_model.safetensors"
    if damage is not None:
        with server.store.open(key) as stream:
            content = stream.read(1_000_000)
        server.store.delete(key)
        if damage == "truncate":
            server.store.write(key, [content])
    method = {"type": "supervised", "supervised": {"hyperparameters": {"lora": lora}}}
    body = {"model": name, "training_file": training_file, "method": method}
    report: Any = client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)
    if param is None:
        assert report["valid"], report
        job = create(client, training_file, model=name, method=method)
        with server.database.transaction() as session:
            spec = JobSpec.model_validate(session.get_one(Job, job.id).spec)
        stored = Lora(r=8, alpha=16, target_modules=("q_proj", "v_proj"))
        assert spec.hyperparameters.lora == stored.model_copy(update={"dropout": lora.get("dropout", 0.0)})
        assert spec.lora_resolved
        return
    if param != "model":
        param = f"method.supervised.hyperparameters.lora.{param}"
    [problem] = report["errors"]
    assert problem["param"] == param
    assert message in problem["message"]
    with pytest.raises(BadRequestError, match=message) as refused:
        create(client, training_file, model=name, method=method)
    assert refused.value.param == param


def download(client: OpenAI, model: str) -> dict[str, bytes]:
    """Return the name and content of each file in the tar."""
    response = client.models.with_raw_response.retrieve(f"{model}/download")
    assert response.headers["content-type"] == "application/x-tar"
    assert ".tar" in response.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        content = {member.name: archive.extractfile(member) for member in archive}
        return {name: stream.read() for name, stream in content.items() if stream is not None}


@lenient_and_strict
def test_models_are_listed(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name = publish(server, tmp_path / "adapter")
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"tiny", name}
    assert models["tiny"].owned_by == "system"
    assert models[name].owned_by == server.project_id
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    assert [model.id for model in stranger.models.list()] == ["tiny"]


@lenient_and_strict
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


@lenient_and_strict
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
    downloaded = download(client, name)
    assert downloaded.pop(SUMS)
    assert downloaded == {file.name: file.read_bytes() for file in (tmp_path / "adapter").iterdir()}
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    for client_, model in ((stranger, name), (client, "tiny")):
        with pytest.raises(NotFoundError) as caught:
            download(client_, model)
        assert caught.value.code == "model_not_found"


@lenient_and_strict
def test_checkpoint_is_a_model(server: Server, client: OpenAI, tmp_path: Path, training_file: str) -> None:
    name = publish_checkpoint(server, tmp_path / "checkpoint")
    downloaded: Any = client.models.retrieve(name)
    assert (downloaded.id, downloaded.base_model, downloaded.step) == (name, "tiny", 4)
    assert name in {model.id for model in client.models.list()}
    files = download(client, name)
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert files["adapter_model.safetensors"] == (tmp_path / "checkpoint/adapter_model.safetensors").read_bytes()
    assert create(client, training_file, model=name).model == name
    with server.database.reading() as session:
        job_id = session.get_one(TrainedModel, name).job_id
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(job_id).data
    path = f"/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint.id}/download"
    with tarfile.open(fileobj=io.BytesIO(client.get(path, cast_to=httpx.Response).content)) as archive:
        assert set(archive.getnames()) == set(files)
    with pytest.raises(NotFoundError, match="has no checkpoint 'ftckpt_other'"):
        client.get(path.replace(checkpoint.id, "ftckpt_other"), cast_to=httpx.Response)


def test_hang_up_closes_the_downloaded_files(server: Server, tmp_path: Path) -> None:
    """At once, not when the garbage collector finds the stream."""
    name = publish(server, tmp_path / "adapter")
    with server.database.reading() as session:
        weights = f"{session.get_one(TrainedModel, name).blob}/adapter_model.safetensors"
    with (server.settings.storage_dir / weights).open("r+b") as stream:
        stream.truncate(256_000_000)  # more than the buffers of a connection hold
    gc.disable()
    try:
        headers = {"authorization": f"Bearer {server.api_key}"}
        with httpx.stream("GET", f"{server.url}/v1/models/{name}/download", headers=headers) as answer:
            chunks = answer.iter_raw()  # its end would close the connection
            next(chunks)
            eventually(lambda: is_open(weights))
        eventually(lambda: not is_open(weights))
    finally:
        gc.enable()


def is_open(path: str) -> bool:
    """Return whether this process, which contains the server, has a file open whose path ends like this."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed since the listing
            if os.readlink(descriptor).endswith(path):
                return True
    return False


def test_incomplete_checkpoint_is_not_a_model(
    server: Server, client: OpenAI, tmp_path: Path, training_file: str
) -> None:
    name = publish_checkpoint(server, tmp_path / "checkpoint", has_adapter=False)
    assert client.models.retrieve(name).id == name
    assert name not in {model.id for model in client.models.list()}
    with pytest.raises(BadRequestError) as caught:
        download(client, name)
    assert caught.value.code == "adapter_missing"
    with pytest.raises(BadRequestError) as caught:
        create(client, training_file, model=name)
    assert (caught.value.code, caught.value.param) == ("adapter_missing", "model")


def test_checkpoint_of_a_finished_job_is_deleted(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name = publish_checkpoint(server, tmp_path / "checkpoint")
    with server.database.transaction() as session:
        model = session.get_one(TrainedModel, name)
        job_id, blob = model.job_id, model.blob
    assert client.models.delete(name).deleted
    assert client.fine_tuning.jobs.checkpoints.list(job_id).data == []
    assert server.store.list(blob) == []


def test_checkpoint_of_a_running_job_is_kept(server: Server, client: OpenAI, tmp_path: Path) -> None:
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        claim = leases.claim(session, "test", 60)
        assert claim is not None
        checkpoints.record(session, claim, StoredCheckpoint(4, "blob", {}, has_adapter=True))
    name = client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
    with pytest.raises(BadRequestError, match=job.id) as caught:
        client.models.delete(name)
    assert caught.value.code == "model_in_use"


def test_base_of_an_unfinished_job_is_kept(server: Server, client: OpenAI, tmp_path: Path, training_file: str) -> None:
    name = publish(server, tmp_path / "adapter")
    job = create(client, training_file, model=name)
    with pytest.raises(BadRequestError, match=job.id) as caught:
        client.models.delete(name)
    assert (caught.value.code, caught.value.param) == ("model_in_use", "model")
    client.fine_tuning.jobs.cancel(job.id)
    assert client.models.delete(name).id == name


def test_allowed_trackers_are_kept(server: Server, api_settings: Settings, training_file: str) -> None:
    wandb = {"type": "wandb", "wandb": {"project": "x", "name": None, "entity": None, "tags": ["a"]}}
    mlflow = {"type": "mlflow", "mlflow": {"experiment": "x"}}
    with serve(variant(api_settings, trackers=("wandb", "mlflow"))) as url:
        there = server.client().with_options(base_url=f"{url}/v1")
        job = create(there, training_file, integrations=[wandb, mlflow])
        assert [integration.type for integration in job.integrations or ()] == ["wandb", "mlflow"]
        strict = server.client(strict=True).with_options(base_url=f"{url}/v1").fine_tuning.jobs.retrieve(job.id)
        [shown] = strict.integrations or []
        assert (shown.type, shown.wandb.project, shown.wandb.tags) == ("wandb", "x", ["a"])
        with pytest.raises(BadRequestError, match="Use mlflow or wandb") as caught:
            create(there, training_file, integrations=[mlflow, {"type": "tensorboard"}])
        assert (caught.value.code, caught.value.param) == ("tracker_not_available", "integrations.1.type")
        assert create(there, training_file, integrations=[]).integrations is None
        with server.database.transaction() as session:
            hardware = Hardware(memory_bytes=1)
            presence.beat(
                session,
                "w:1",
                state=WorkerState.ready,
                queues=["train"],
                slots=1,
                hardware=hardware,
                trackers=["mlflow"],
            )
        with pytest.raises(BadRequestError, match="'wandb' is allowed on this server, but no worker has its library"):
            create(there, training_file, integrations=[wandb])
        assert create(there, training_file, integrations=[mlflow]).integrations


def test_aliases_stand_for_base_models(
    server: Server, api_settings: Settings, training_file: str, client: OpenAI
) -> None:
    aliases = {"gpt-4o-mini": "tiny", "gpt-4.1-nano-2025-04-14": "tiny", "gpt-4.1": "absent"}
    with serve(variant(api_settings, model_aliases=aliases)) as url:
        there = client.with_options(base_url=f"{url}/v1")
        for name in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-4.1-nano-2025-04-14", "tiny"):
            assert there.models.retrieve(name).id == "tiny"
            job = create(there, training_file, model=name)
            assert job.model == "tiny"
        (tiny,) = there.models.list()
        assert (tiny.id, tiny.aliases) == ("tiny", ["gpt-4.1-nano-2025-04-14", "gpt-4o-mini"])  # type: ignore[attr-defined]
        for name in ("gpt-4.1-nano", "gpt-4.1", "gpt-4o-mini-2024"):
            with pytest.raises(NotFoundError, match="Known here") as caught:
                there.models.retrieve(name)
            assert caught.value.code == "model_not_found"
            with pytest.raises(BadRequestError):
                create(there, training_file, model=name)
        with pytest.raises(BadRequestError, match="base model"):
            there.models.delete("gpt-4o-mini-2024-07-18")


def succeeded(server: Server, scratch: Path, *, model: str = "tiny", evaluate: bool = True) -> tuple[str, str]:
    """Run a job on `model` to its end without training; return the names of its model and of its checkpoint."""
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        training = session.get_one(File, job.training_file)
        held_out = stored_file(session, server.store, server.project_id, scratch)
        job.spec = job.spec | {"model": model}
        job.training_file, job.validation_file = training.id, held_out.id
        session.flush()
        claim = leases.claim(session, "test", 60)
        assert claim is not None
        values = {step: {"eval/accuracy": step / 8, "loss": 1.0} for step in (0, 4, 8)}
        points = [{"step": step, "values": each} for step, each in values.items()]
        job.evaluation = {"before": points[0], "after": points[2], "history": points} if evaluate else None
        blob = f"jobs/{job.id}/a1"
        config = json.dumps({"r": 8, "peft_type": "LORA"})
        for name in ("adapter", "checkpoints/step-4"):
            directory = write_adapter(scratch / f"{job.id}-{name.replace('/', '-')}")
            (directory / "adapter_config.json").write_text(config)
            server.store.put_tree(f"{blob}/{name}", directory)
        checkpoints.record(session, claim, StoredCheckpoint(4, f"{blob}/checkpoints/step-4", {"loss": 1.0}, True))
        finished = Finished(step=8, path="/x", trained_tokens=1, published_step=8, reason="the last step")
        published = outcomes.succeed(session, claim, finished, f"{blob}/adapter", "tiny", metrics_csv())
    assert published is not None
    return published, ids.checkpoint_model(published, 4)


def details(client: OpenAI, model: str) -> Any:
    return client.get(f"/models/{model}", cast_to=object)


def test_details_of_an_adapter(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name, checkpoint = succeeded(server, tmp_path)
    client.put("/model_aliases/prod", body={"model": name}, cast_to=object)
    found = details(client, "prod")
    files = download(client, name)
    assert found["bytes"] == sum(map(len, files.values()))
    assert found["sha256"] == hashlib.sha256(files["adapter_model.safetensors"]).hexdigest()
    assert (found["id"], found["rank"], found["aliases"]) == (name, 8, ["prod"])
    assert found["base"]["name"] == "tiny"
    made = found["lineage"]
    assert (made["method"], made["seed"], made["parents"]) == ("supervised", 7, [])
    assert made["training_file"]["filename"] == "rows.jsonl"
    held_out = client.files.content(made["validation_file"]["id"]).content
    assert made["validation_file"]["sha256"] == hashlib.sha256(held_out).hexdigest()
    before, after = ({"step": step, "values": {"eval/accuracy": step / 8}} for step in (0, 8))
    assert made["evaluation"] == {"before": before, "after": after}
    at_4 = details(client, checkpoint)
    assert (at_4["step"], at_4["lineage"]["evaluation"]["after"]["values"]) == (4, {"eval/accuracy": 0.5})
    listed = {model.id: model for model in client.models.list()}
    assert listed[name].aliases == ["prod"]  # type: ignore[attr-defined]


def test_details_of_a_deleted_origin(server: Server, client: OpenAI, tmp_path: Path) -> None:
    first, _ = succeeded(server, tmp_path)
    second, _ = succeeded(server, tmp_path, model=first)
    third, checkpoint = succeeded(server, tmp_path, model=second, evaluate=False)
    jobs = [details(client, name)["job_id"] for name in (second, first)]
    expected = [{"id": second, "job_id": jobs[0]}, {"id": first, "job_id": jobs[1]}]
    assert details(client, third)["lineage"]["parents"] == expected
    assert details(client, third)["lineage"]["evaluation"] == {"before": None, "after": None}
    client.files.delete(details(client, third)["lineage"]["training_file"]["id"])
    client.models.delete(second)
    made = details(client, third)["lineage"]
    assert made["parents"] == [{"id": second, "job_id": None}]
    assert made["training_file"]["filename"] is made["training_file"]["sha256"] is None
    server.store.discard(f"jobs/{details(client, third)['job_id']}/a1/adapter")
    assert details(client, third)["sha256"] is details(client, third)["bytes"] is None
    assert details(client, checkpoint)["rank"] == 8


def test_details_of_a_shared_model(server: Server, client: OpenAI, tmp_path: Path) -> None:
    name, _ = succeeded(server, tmp_path)
    client.put("/model_aliases/prod", body={"model": name}, cast_to=object)
    stranger_id, key = new_project(server.database, "stranger")
    body = {"project_ids": [stranger_id]}
    client.post(f"/fine_tuning/checkpoints/{name}/permissions", body=body, cast_to=object)
    found = details(server.client(api_key=key), name)
    assert (found["owned_by"], found["rank"], found["bytes"] > 0) == (server.project_id, 8, True)
    assert (found["lineage"], found["aliases"]) == (None, [])


def test_details_of_a_base_model(client: OpenAI) -> None:
    found = details(client, "tiny")
    assert found["base"] == {"name": "tiny", "hub_id": None, "revision": None, "licence": None, "context_length": None}
    assert found["bytes"] is found["lineage"] is None
