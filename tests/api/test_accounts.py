"""API keys, projects and the audit log through the official SDK."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from app.core.accounts.scopes import ALL, DEFAULT
from tests.api.jobs import create
from tests.api.server import Server, new_key, new_project, serve
from tests.waiting import eventually


@pytest.fixture
def admin(server: Server) -> OpenAI:
    """A client with the scope `admin`."""
    return server.client(api_key=new_key(server.database, server.project_id, *ALL))


def get(client: OpenAI, path: str, **query: Any) -> Any:
    return client.get(path, cast_to=object, options={"params": query})


def post(client: OpenAI, path: str, body: dict[str, Any] | None = None) -> Any:
    return client.post(path, body=body, cast_to=object)


def test_new_key_works_and_is_shown_once(server: Server, admin: OpenAI) -> None:
    made = post(admin, "/api_keys", {"name": "laptop"})
    assert made["scopes"] == list(DEFAULT)
    assert (made["project_id"], made["status"], made["expires_at"]) == (server.project_id, "active", None)
    assert list(server.client(api_key=made["key"]).files.list()) == []
    secret = made.pop("key").split("_")[3]
    shown = get(admin, f"/api_keys/{made['id']}")
    assert shown["last_used_at"] is not None
    assert made == shown | {"last_used_at": None}
    for answer in (shown, get(admin, "/api_keys"), get(admin, "/audit_log")):
        assert secret not in str(answer)


def test_a_key_can_do_what_its_scopes_say(server: Server, admin: OpenAI, training_file: str) -> None:
    made = post(admin, "/api_keys", {"name": "dashboard", "scopes": ["jobs:read", "files:read"]})
    reader = server.client(api_key=made["key"])
    assert reader.files.retrieve(training_file).id == training_file
    assert list(reader.fine_tuning.jobs.list()) == []
    with pytest.raises(PermissionDeniedError, match="'jobs:write'") as caught:
        create(reader, training_file)
    assert (caught.value.code, caught.value.type) == ("insufficient_scope", "invalid_request_error")
    with pytest.raises(PermissionDeniedError, match="'files:write'"):
        reader.files.create(file=b"{}", purpose="fine-tune")
    with pytest.raises(PermissionDeniedError, match="'models:read'"):
        reader.models.list()


@pytest.mark.parametrize("path", ["/api_keys", "/projects", "/audit_log"])
def test_administration_needs_the_admin_scope(server: Server, path: str) -> None:
    with pytest.raises(PermissionDeniedError, match="'admin'"):
        get(server.client(), path)


def test_key_expires(server: Server, admin: OpenAI) -> None:
    made = post(admin, "/api_keys", {"name": "today", "expires_in_seconds": 86_400})
    assert made["expires_at"] - made["created_at"] == 86_400
    assert list(server.client(api_key=made["key"]).files.list()) == []


def test_a_revoked_key_is_401_at_once(server: Server, admin: OpenAI) -> None:
    made = post(admin, "/api_keys", {"name": "lost"})
    assert list(server.client(api_key=made["key"]).files.list()) == []  # the server caches the key for a second
    gone = admin.delete(f"/api_keys/{made['id']}", cast_to=object)
    assert gone == {"id": made["id"], "object": "api_key", "deleted": True}
    with pytest.raises(AuthenticationError):
        server.client(api_key=made["key"]).files.list()
    assert get(admin, f"/api_keys/{made['id']}")["status"] == "revoked"


def test_other_processes_reject_a_revoked_key(server: Server, admin: OpenAI) -> None:
    made = post(admin, "/api_keys", {"name": "lost"})
    with serve(server.settings) as url:
        other = server.client(api_key=made["key"]).with_options(base_url=f"{url}/v1")
        assert list(other.files.list()) == []
        admin.delete(f"/api_keys/{made['id']}", cast_to=object)

        def is_refused() -> bool:
            try:
                other.files.list()
            except AuthenticationError:
                return True
            return False

        eventually(is_refused)


def test_rotated_key_works_in_the_grace_period(server: Server, admin: OpenAI) -> None:
    old = post(admin, "/api_keys", {"name": "ci", "scopes": ["files:*"]})
    new = post(admin, f"/api_keys/{old['id']}/rotate")
    assert (new["name"], new["scopes"], new["project_id"]) == ("ci", ["files:*"], server.project_id)
    for key in (old, new):
        assert list(server.client(api_key=key["key"]).files.list()) == []
    was = get(admin, f"/api_keys/{old['id']}")
    assert was["replaced_by"] == new["id"]
    assert abs(was["expires_at"] - time.time() - 86_400) < 60
    last = post(admin, f"/api_keys/{new['id']}/rotate", {"grace_seconds": 0})
    with pytest.raises(AuthenticationError) as caught:
        server.client(api_key=new["key"]).files.list()
    assert caught.value.code == "api_key_expired"
    assert list(server.client(api_key=last["key"]).files.list()) == []


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "name", "missing"),
        ({"name": "x", "scopes": ["files:eat"]}, "scopes", r"unknown scope 'files:eat'; use one or more of files:\*"),
        ({"name": "x", "scopes": []}, "scopes", "at least 1"),
        ({"name": "x" * 65}, "name", "at most 64"),
        ({"name": "x", "project_id": "proj_none"}, "project_id", "no project 'proj_none'"),
        ({"name": "x", "requests_per_minute": 0}, "requests_per_minute", "greater than or equal to 1"),
        ({"name": "x", "expires_in_seconds": 10**12}, "expires_in_seconds", "less than or equal to"),
        ({"name": "x", "scope": ["admin"]}, "scope", "did you mean 'scopes'"),
    ],
)
def test_invalid_key_settings_are_refused(admin: OpenAI, body: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        post(admin, "/api_keys", body)
    assert caught.value.param == param


def test_unknown_keys_and_projects_are_404(admin: OpenAI) -> None:
    for path in ("/api_keys/nobody12", "/projects/proj_none"):
        with pytest.raises(NotFoundError):
            get(admin, path)
    with pytest.raises(NotFoundError):
        post(admin, "/projects/proj_none", {"archived": True})
    with pytest.raises(NotFoundError):
        admin.delete("/api_keys/nobody12", cast_to=object)


def test_a_new_project_has_keys_of_its_own(server: Server, admin: OpenAI) -> None:
    lab = post(admin, "/projects", {"name": "lab", "limits": {"running_jobs": 2}})
    assert lab["limits"] == {
        "requests_per_minute": None,
        "running_jobs": 2,
        "queued_jobs": None,
        "stored_bytes": None,
        "gpu_hours": None,
        "inference_requests": None,
        "priority": None,
    }
    assert lab["effective_limits"]["queued_jobs"] == server.settings.max_queued_jobs
    made = post(admin, "/api_keys", {"name": "lab's", "project_id": lab["id"]})
    client = server.client(api_key=made["key"])
    file = client.files.create(file=b'{"messages": []}', purpose="fine-tune")
    assert [file.id for file in client.files.list()] == [file.id]
    assert list(server.client().files.list()) == []
    assert get(admin, f"/projects/{lab['id']}")["usage"]["stored_bytes"] == file.bytes
    assert [key["id"] for key in get(admin, "/api_keys", project_id=lab["id"])["data"]] == [made["id"]]
    assert [project["name"] for project in get(admin, "/projects")["data"]] == ["lab", "default"]


def test_project_is_limited_archived_restored(server: Server, admin: OpenAI) -> None:
    lab = post(admin, "/projects", {"name": "lab"})
    client = server.client(api_key=new_key(server.database, lab["id"]))
    limited = post(admin, f"/projects/{lab['id']}", {"limits": {"stored_bytes": 5}})
    assert (limited["limits"]["stored_bytes"], limited["limits"]["running_jobs"]) == (5, None)
    assert post(admin, f"/projects/{lab['id']}", {"archived": True})["status"] == "archived"
    with pytest.raises(AuthenticationError, match="archived") as caught:
        client.files.list()
    assert caught.value.code == "project_archived"
    back = post(admin, f"/projects/{lab['id']}", {"archived": False, "limits": {"stored_bytes": None}})
    assert (back["status"], back["limits"]["stored_bytes"]) == ("active", None)
    assert list(client.files.list()) == []


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "-a", "ü", "a" * 65, "default"])
def test_invalid_project_name_is_refused(admin: OpenAI, name: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        post(admin, "/projects", {"name": name})
    assert caught.value.param == "name"


@pytest.mark.parametrize("header", ["organization", "project"])
def test_header_with_another_project_is_401(server: Server, header: str) -> None:
    other, _ = new_project(server.database, "other")

    def files(named: str) -> Any:
        fields: Any = {header: named}
        return server.client().with_options(**fields).files.list().data

    assert files(server.project_id) == files("default") == []
    for named in (other, "other", "org-of-openai"):
        with pytest.raises(AuthenticationError, match=re.escape(f"names '{named}'")) as caught:
            files(named)
        assert caught.value.code == f"mismatched_{header}"


def test_responses_name_the_project(server: Server) -> None:
    with_key = server.client().files.with_raw_response.list()
    assert with_key.headers["openai-organization"] == "default"
    with pytest.raises(NotFoundError) as caught:
        server.client().files.retrieve("file-none")
    assert caught.value.response.headers["openai-organization"] == "default"
    with pytest.raises(AuthenticationError) as refused:
        server.client(api_key="gt_live_wrong").files.list()
    assert "openai-organization" not in refused.value.response.headers


def test_every_change_is_in_the_audit_log(server: Server, admin: OpenAI, rows: Path) -> None:
    client = server.client()
    training_file = client.files.create(file=rows, purpose="fine-tune").id
    server.validate_files()
    job = create(client, training_file)
    client.fine_tuning.jobs.pause(job.id)
    client.fine_tuning.jobs.resume(job.id)
    cancelled = client.fine_tuning.jobs.with_raw_response.cancel(job.id)
    client.files.delete(training_file)
    entries = get(admin, "/audit_log", project_id=server.project_id)["data"]
    changes = [(entry["action"], entry["object_id"]) for entry in entries]
    assert changes == [
        ("file.delete", training_file),
        ("job.cancel", job.id),
        ("job.resume", job.id),
        ("job.pause", job.id),
        ("job.create", job.id),
        ("file.create", training_file),
    ]
    cancel = entries[1]
    assert (cancel["before"]["status"], cancel["after"]["status"]) == ("queued", "cancelled")
    assert cancel["actor"] == {
        "key_id": server.api_key.split("_")[2],
        "project_id": server.project_id,
        "ip": "127.0.0.1",
        "request_id": cancelled.headers["x-request-id"],
    }
    assert entries[0]["before"]["filename"] == "rows.jsonl"
    assert entries[0]["after"] is None


def test_administration_is_in_the_audit_log(server: Server, admin: OpenAI) -> None:
    lab = post(admin, "/projects", {"name": "lab"})
    post(admin, f"/projects/{lab['id']}", {"limits": {"queued_jobs": 3}})
    key = post(admin, "/api_keys", {"name": "ci", "project_id": lab["id"]})
    post(admin, f"/api_keys/{key['id']}/rotate")
    admin.delete(f"/api_keys/{key['id']}", cast_to=object)
    expected = ["api_key.revoke", "api_key.rotate", "api_key.create", "project.update", "project.create"]
    seen: list[str] = []
    query: dict[str, Any] = {"project_id": lab["id"], "limit": 2}
    while True:
        page = get(admin, "/audit_log", **query)
        seen += [entry["action"] for entry in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert seen == expected
    assert len(get(admin, "/audit_log", action="project.update")["data"]) == 1
    assert len(get(admin, "/audit_log", object_id=key["id"])["data"]) == 3
    with pytest.raises(BadRequestError, match="action"):
        get(admin, "/audit_log", action="project.eat")
