"""Sharing models and checkpoints with other projects, through the official SDK."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from app.core.accounts.audit import Actor
from app.core.jobs.lifecycle import cancel
from tests.api.jobs import create, refused
from tests.api.routes.test_models import download, publish, publish_checkpoint
from tests.api.server import Server, lenient_and_strict, new_project
from worker.file_validation import validate_one

Permissions = Any


@pytest.fixture
def checkpoint(server: Server, tmp_path: Path) -> str:
    """A usable checkpoint whose name has both `/` and `:`."""
    return publish_checkpoint(server, tmp_path / "checkpoint", base="Qwen/Qwen3-0.6B", step=10)


def permissions_of(client: OpenAI) -> Permissions:
    return client.fine_tuning.checkpoints.permissions


@lenient_and_strict
def test_grant_list_and_revoke(server: Server, client: OpenAI, checkpoint: str) -> None:
    assert checkpoint.endswith(":ckpt-step-10")
    other, _ = new_project(server.database, "other")
    granted = permissions_of(client).create(checkpoint, project_ids=[other])
    assert granted.object == "list"
    (permission,) = granted.data
    assert (permission.object, permission.project_id) == ("checkpoint.permission", other)
    assert permission.id.startswith("cp_")
    assert isinstance(permission.created_at, int)
    assert [item.id for item in permissions_of(client).list(checkpoint)] == [permission.id]
    deleted = permissions_of(client).delete(permission.id, fine_tuned_model_checkpoint=checkpoint)
    assert (deleted.id, deleted.object, deleted.deleted) == (permission.id, "checkpoint.permission", True)
    assert permissions_of(client).list(checkpoint).data == []
    with pytest.raises(NotFoundError):
        permissions_of(client).delete(permission.id, fine_tuned_model_checkpoint=checkpoint)


def test_raw_and_quoted_names_mean_the_same(server: Server, checkpoint: str) -> None:
    bearer = {"authorization": f"Bearer {server.api_key}"}
    for name in (checkpoint, checkpoint.replace("/", "%2F"), checkpoint.replace("/", "%2F").replace(":", "%3A")):
        path = f"{server.url}/v1/fine_tuning/checkpoints/{name}/permissions"
        assert httpx.get(path, headers=bearer).json()["data"] == []


@lenient_and_strict
def test_permissions_are_paged_in_both_orders(server: Server, client: OpenAI, checkpoint: str) -> None:
    others = [new_project(server.database, f"p{n}")[0] for n in range(12)]
    for other in others:
        permissions_of(client).create(checkpoint, project_ids=[other])
    listing = permissions_of(client).list(checkpoint)
    assert len(listing.data) == 10
    assert listing.has_more is True
    newest_first = [
        permission.project_id for permission in islice(permissions_of(client).list(checkpoint, limit=5), 50)
    ]
    assert newest_first == others[::-1]
    oldest_first = permissions_of(client).list(checkpoint, limit=5, order="ascending")
    assert [permission.project_id for permission in islice(oldest_first, 50)] == others
    assert [permission.project_id for permission in permissions_of(client).list(checkpoint, project_id=others[3])] == [
        others[3]
    ]
    with pytest.warns(DeprecationWarning, match="list method"):
        retrieved = permissions_of(client).retrieve(checkpoint, limit=2)
    assert (retrieved.has_more, len(retrieved.data)) == (True, 2)
    for bad in ({"after": "cp_unknown"}, {"order": "desc"}, {"limit": 0}):
        with pytest.raises(BadRequestError) as caught:
            permissions_of(client).list(checkpoint, **bad)
        assert caught.value.param == next(iter(bad))


def test_granting_again_changes_nothing(server: Server, client: OpenAI, checkpoint: str) -> None:
    first, second = (new_project(server.database, name)[0] for name in ("first", "second"))
    before = permissions_of(client).create(checkpoint, project_ids=[first]).data[0]
    after = permissions_of(client).create(checkpoint, project_ids=[second, first, first]).data
    assert [permission.project_id for permission in after] == [second, first]
    assert after[1].id == before.id


@pytest.mark.parametrize(
    ("project_ids", "param", "code"),
    [
        (["proj_unknown"], "project_ids.0", "project_not_found"),
        ([], "project_ids", "invalid_request"),
        (["x"] * 101, "project_ids", "invalid_request"),
        ("x", "project_ids", "invalid_request"),
    ],
)
def test_bad_grants_are_refused(client: OpenAI, checkpoint: str, project_ids: Any, param: str, code: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        permissions_of(client).create(checkpoint, project_ids=project_ids)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert permissions_of(client).list(checkpoint).data == []


def test_only_the_owner_shares(server: Server, client: OpenAI, checkpoint: str) -> None:
    other, key = new_project(server.database, "other")
    third, _ = new_project(server.database, "third")
    stranger = server.client(api_key=key)
    permission = permissions_of(client).create(checkpoint, project_ids=[other]).data[0]
    attempts: list[Callable[[], Any]] = [
        lambda: permissions_of(stranger).create(checkpoint, project_ids=[third]),
        lambda: permissions_of(stranger).list(checkpoint),
        lambda: permissions_of(stranger).delete(permission.id, fine_tuned_model_checkpoint=checkpoint),
        lambda: permissions_of(client).list("ft:tiny:default::unknown1"),
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError) as caught:
            attempt()
        assert caught.value.code == "model_not_found"
    with pytest.raises(PermissionDeniedError, match="owner"):
        stranger.models.delete(checkpoint)
    assert client.models.retrieve(checkpoint).id == checkpoint


@pytest.mark.parametrize("make", [publish, publish_checkpoint], ids=["model", "checkpoint"])
def test_shared_model_is_usable_until_revoked(
    server: Server, client: OpenAI, tmp_path: Path, rows: Path, make: Callable[..., str]
) -> None:
    model = make(server, tmp_path / "adapter")
    other, key = new_project(server.database, "other")
    guest = server.client(api_key=key)
    file = guest.files.create(file=rows, purpose="fine-tune").id
    while validate_one(server.database, server.store):
        pass
    assert refused(guest, file, model=model).code == "model_not_found"
    with pytest.raises(NotFoundError):
        guest.models.retrieve(model)

    permission = permissions_of(client).create(model, project_ids=[other]).data[0]
    assert guest.models.retrieve(model).owned_by == server.project_id
    assert {model_object.id for model_object in guest.models.list()} == {"tiny", model}
    assert set(download(guest, model)) >= {"adapter_config.json", "adapter_model.safetensors"}
    job = create(guest, file, model=model)
    assert (job.status, job.model) == ("queued", model)
    with pytest.raises(BadRequestError, match=job.id) as caught:
        client.models.delete(model)
    assert caught.value.code == "model_in_use"

    permissions_of(client).delete(permission.id, fine_tuned_model_checkpoint=model)
    with pytest.raises(NotFoundError):
        guest.models.retrieve(model)
    with server.database.transaction() as session:
        cancel(session, Actor(other), job.id)
    with pytest.raises(BadRequestError, match="no fine-tuned model"):
        create(guest, file, model=model)


def test_model_deletion_removes_permissions(server: Server, client: OpenAI, tmp_path: Path) -> None:
    model = publish(server, tmp_path / "adapter")
    other, key = new_project(server.database, "other")
    permissions_of(client).create(model, project_ids=[other])
    client.models.delete(model)
    with pytest.raises(NotFoundError):
        server.client(api_key=key).models.retrieve(model)
