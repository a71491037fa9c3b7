"""Pushes to a hub: a real server with the hub's protocol, and the hub's own client in the real subprocess."""

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from app.core.accounts.audit import Actor
from app.core.exports import orders
from app.core.exports.tables import Export, ExportStatus
from app.core.jobs.tables import Job
from app.core.models.tables import TrainedModel
from app.core.spec.export import ExportFormat, ExportRefused, ExportSpec
from app.core.spec.subprocess_environment import HUB_TOKEN
from tests.worker.test_exports import Workshop, adapter, workshop
from tests.writable_hub import TOKEN, Hub, Repository, writable_hub
from worker.exporting import push as pushing

__all__ = ["adapter", "workshop"]  # fixtures


@pytest.fixture
def hub() -> Iterator[Hub]:
    with writable_hub() as running:
        yield running


@pytest.fixture
def pusher(workshop: Workshop, hub: Hub) -> Workshop:
    """A worker that pushes to the hub."""
    return replace(workshop, settings=workshop.settings.model_copy(update={"hub_url": hub.url}))


def push(workshop: Workshop, **options: Any) -> Export:
    """Push the model to `me/tiny`; return the export after one attempt."""
    with workshop.database.transaction() as session:
        given = orders.options_of(ExportFormat.push, repository="me/tiny", **options)
        secret = workshop.ring.encrypt(TOKEN)
        ordered, _ = orders.order(session, Actor(workshop.project), workshop.model, ExportFormat.push, given, secret)
    assert workshop.work()
    return workshop.export(ordered.id)


def test_adapter_is_pushed_with_its_card(pusher: Workshop, hub: Hub, adapter: Path) -> None:
    with pusher.database.transaction() as session:
        job = session.get_one(Job, session.get_one(TrainedModel, pusher.model).job_id)
        job.hyperparameters = {"batch_size": 4, "learning_rate": 0.0002}
        values = {"before": {"eval/accuracy": 0.14}, "after": {"eval/accuracy": 0.7, "train/x": 1.0}}
        job.evaluation = {name: {"step": 1, "values": value} for name, value in values.items()}
    export = push(pusher)
    assert (export.status, export.error) == (ExportStatus.succeeded, None)
    assert (export.blob, export.bytes, export.secret) == (None, None, None)
    repository = hub.repositories["me/tiny"]
    assert repository.private
    assert set(repository.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert repository.files["adapter_model.safetensors"] == weights
    manifest = export.manifest or {}
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in repository.files.items()
    }
    assert manifest["repository"] == {"url": f"{hub.url}/me/tiny", "commit": repository.commits[-1], "private": True}
    _, metadata, text = repository.files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["grouptune", "lora", "supervised"],
    }
    assert "| learning rate | 0.0002 |" in text
    assert "| eval/accuracy | 0.14 | 0.7 |" in text
    assert str(adapter) not in text


def test_merged_model_is_pushed_to_a_public_repository(pusher: Workshop, hub: Hub, tiny_models: Path) -> None:
    """The card has the license of the base model and links it."""
    hub.repositories["them/tiny-base"] = Repository(private=False, card={"license": "apache-2.0"})
    source = tiny_models / "tiny" / "hub_source.json"
    source.write_text('{"hub_id": "them/tiny-base", "revision": null}')
    try:
        export = push(pusher, merged=True, private=False)
    finally:
        source.unlink()
    assert (export.status, export.error) == (ExportStatus.succeeded, None)
    repository = hub.repositories["me/tiny"]
    assert not repository.private
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(repository.files)
    assert (export.manifest or {})["check"]["compared"].startswith("log-probabilities")
    metadata = yaml.safe_load(repository.files["README.md"].decode().split("---\n", 2)[1])
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("them/tiny-base", "finetune")
    assert metadata["license"] == "apache-2.0"


@pytest.fixture
def spec(hub: Hub, tiny_models: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> ExportSpec:
    """A push from this process, without a worker."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv(HUB_TOKEN, TOKEN)
    return ExportSpec(
        model="ft:tiny:me::12345678",
        base_name="tiny",
        base_dir=tiny_models / "tiny",
        base_hub_id=None,
        base_revision=None,
        adapter_dir=adapter,
        format=ExportFormat.push,
        quantization=None,
        probe=None,
        hub_url=hub.url,
        repository="me/tiny",
    )


def refused(spec: ExportSpec, directory: Path) -> ExportRefused:
    with pytest.raises(ExportRefused) as caught:
        pushing.push(spec, directory, lambda _stage, _progress: None)
    return caught.value


def test_wrong_token_fails_the_push(spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HUB_TOKEN, "hf_wrong")
    error = refused(spec, tmp_path)
    assert (error.code, error.is_temporary) == ("hub_refused", False)
    assert "answered 401" in error.message
    assert "token may write to this repository" in error.message
    assert "hf_wrong" not in error.message


def test_token_that_no_header_can_have_is_not_quoted(
    spec: ExportSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HUB_TOKEN, "hf_se cret\nx")
    error = refused(spec, tmp_path)
    assert (error.code, error.is_temporary) == ("hub_refused", False)
    assert "The token of the hub has a space" in error.message
    assert "hf_se" not in error.message


@pytest.mark.parametrize("is_private", [True, False])
def test_visibility_of_an_existing_repository(spec: ExportSpec, hub: Hub, is_private: bool, tmp_path: Path) -> None:
    hub.repositories["me/tiny"] = Repository(private=is_private)
    error = refused(spec.model_copy(update={"private": not is_private}), tmp_path)
    assert error.code == "hub_refused"
    assert f"me/tiny exists and is {'private' if is_private else 'public'}" in error.message
    assert hub.repositories["me/tiny"].files == {}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in the hub's client
def test_lost_file_is_noticed(spec: ExportSpec, hub: Hub, tmp_path: Path) -> None:
    hub.loses = "adapter_config.json"
    error = refused(spec, tmp_path)
    assert error.code == "export_check_failed"
    assert "1 of 3 files differ: adapter_config.json is missing" in error.message


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in the hub's client
@pytest.mark.parametrize(
    ("path", "status", "body", "is_temporary", "words"),
    [
        (
            "/commit/",
            412,
            "A commit has happened since. Please refresh.",
            True,
            "412 to the push to me/tiny: A commit has",
        ),
        ("/commit/", 409, "Another operation is in progress.", True, "409"),
        (
            "/commit/",
            403,
            "Private repository storage limit reached.",
            False,
            "storage limit reached. Check that the token",
        ),
        ("/commit/", 400, "x" * 1000, False, "x" * 500),
        ("/upload/", 403, "<Error><Code>AccessDenied</Code></Error>", False, "me/tiny: AccessDenied."),
    ],
)
def test_answer_of_the_hub_is_quoted(
    spec: ExportSpec, hub: Hub, path: str, status: int, body: str, is_temporary: bool, words: str, tmp_path: Path
) -> None:
    hub.fault = (path, status, body)
    error = refused(spec, tmp_path)
    assert (error.code, error.is_temporary) == ("hub_unavailable" if is_temporary else "hub_refused", is_temporary)
    assert words in error.message
    assert "secret" not in error.message
    assert "<" not in error.message
    assert "x" * 501 not in error.message


def test_unreachable_hub_is_tried_again(spec: ExportSpec, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = refused(spec.model_copy(update={"hub_url": f"http://127.0.0.1:{port}"}), tmp_path)
    assert (error.code, error.is_temporary) == ("hub_unavailable", True)
    assert "Connection refused" in error.message
