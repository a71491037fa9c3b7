"""Exports over HTTP: orders, downloads with ranges, cancellation, tenancy and retention."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from app.core.accounts.tables import Project
from app.core.exports import claims
from app.core.exports.tables import Export
from app.core.models import permissions
from app.core.secrets import KeyRing
from app.core.webhooks.tables import WebhookDelivery
from tests.api.conftest import SECRET_KEY
from tests.api.routes.test_models import publish
from tests.api.server import Server, new_key, new_project
from tests.setup_models import stored_export
from worker.maintenance import expiry


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {server.api_key}"}) as client:
        yield client


@pytest.fixture
def model(server: Server, tmp_path: Path) -> str:
    return publish(server, tmp_path / "adapter")


def order(http: httpx.Client, model: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/models/{model}/exports", json={"format": "merged"} | body)
    assert answer.status_code == 200, answer.text
    export: dict[str, Any] = answer.json()
    return export


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def succeeded(server: Server, model: str) -> str:
    with server.database.transaction() as session:
        return stored_export(session, server.store, server.project_id, model).id


def test_order_is_queued_and_returned_again(http: httpx.Client, server: Server, model: str, tmp_path: Path) -> None:
    export = order(http, model)
    assert export["id"].startswith("export-")
    shown = ("object", "model", "format", "quantization", "status", "progress", "stage", "manifest", "finished_at")
    assert [export[name] for name in shown] == ["model.export", model, "merged", None, "queued", 0.0, None, None, None]
    assert http.get(f"/exports/{export['id']}").json() == export
    assert order(http, model) == export
    http.put("/model_aliases/prod", json={"model": model})
    assert order(http, "prod") == export
    assert http.get("/models/prod/exports").json()["data"] == [export]
    other = publish(server, tmp_path / "other")
    assert order(http, other)["id"] != export["id"]
    assert [one["id"] for one in http.get(f"/models/{model}/exports").json()["data"]] == [export["id"]]


def test_concurrent_orders_make_one_export(http: httpx.Client, model: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = {export["id"] for export in pool.map(lambda _: order(http, model), range(16))}
    assert len(ids) == 1


@pytest.mark.parametrize("token", ["hf_secret" * 200, ["hf_secret"]])
def test_rejected_token_is_not_shown(http: httpx.Client, model: str, token: Any) -> None:
    body = {"format": "push", "repository": "me/tiny", "hub_token": token}
    answer = http.post(f"/models/{model}/exports", json=body)
    assert error_of(answer)[2] == "hub_token"
    assert "hf_secret" not in answer.text


def test_list_is_paginated(http: httpx.Client, model: str) -> None:
    ids = []
    for _ in range(3):
        ids.append(order(http, model)["id"])
        http.post(f"/exports/{ids[-1]}/cancel")
    first = http.get(f"/models/{model}/exports", params={"limit": 2}).json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:0:-1], True)
    rest = http.get(f"/models/{model}/exports", params={"after": first["last_id"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert error_of(http.get(f"/models/{model}/exports", params={"after": "x"})) == (400, "invalid_request", "after")


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        (None, {"format": "onnx"}, (400, "invalid_request", "format")),
        (None, {}, (400, "invalid_request", "format")),
        (None, {"format": "merged", "quantization": "q1"}, (400, "invalid_request", "quantization")),
        (None, {"format": "merged", "bits": 4}, (400, "invalid_request", "bits")),
        (None, {"format": "merged", "repository": "me/x"}, (400, "invalid_request", "repository")),
        (None, {"format": "merged", "private": True}, (400, "invalid_request", "private")),
        (None, {"format": "merged", "hub_token": "hf"}, (400, "invalid_request", "hub_token")),
        (None, {"format": "push", "hub_token": "hf"}, (400, "invalid_request", "repository")),
        (None, {"format": "push", "hub_token": "hf", "repository": "me"}, (400, "invalid_request", "repository")),
        (None, {"format": "push", "hub_token": "hf", "repository": "../me/x"}, (400, "invalid_request", "repository")),
        (None, {"format": "push", "repository": "me/x"}, (400, "hub_token_missing", "hub_token")),
        (None, {"format": "push", "repository": "me/x", "hub_token": "hf_x\n"}, (400, "invalid_request", "hub_token")),
        ("tiny", {"format": "merged"}, (404, "model_not_found", None)),
        ("ft:tiny:other::12345678", {"format": "merged"}, (404, "model_not_found", None)),
    ],
)
def test_bad_orders_are_refused(
    http: httpx.Client, model: str, name: str | None, body: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    assert error_of(http.post(f"/models/{name or model}/exports", json=body)) == expected


def test_push_keeps_its_token_secret(http: httpx.Client, server: Server, model: str) -> None:
    body = {"format": "push", "repository": "me/tiny", "hub_token": "hf_secret"}
    answer = http.post(f"/models/{model}/exports", json=body)
    assert answer.status_code == 200, answer.text
    export = answer.json()
    shown = ("format", "repository", "private", "merged", "quantization")
    assert [export[name] for name in shown] == ["push", "me/tiny", True, False, None]
    assert "hf_secret" not in answer.text
    with server.database.transaction() as session:
        secret = session.get_one(Export, export["id"]).secret
    assert secret is not None
    assert KeyRing((SECRET_KEY,)).decrypt(secret) == "hf_secret"
    http.post(f"/exports/{export['id']}/cancel")
    with server.database.transaction() as session:
        assert session.get_one(Export, export["id"]).secret is None


def test_order_needs_the_scope_to_write(server: Server, model: str) -> None:
    reader = {"authorization": f"Bearer {new_key(server.database, server.project_id, 'models:read')}"}
    answer = httpx.post(f"{server.url}/v1/models/{model}/exports", json={"format": "merged"}, headers=reader)
    assert error_of(answer)[:2] == (403, "insufficient_scope")
    assert httpx.get(f"{server.url}/v1/models/{model}/exports", headers=reader).status_code == 200


def test_shared_model_can_be_exported(http: httpx.Client, server: Server, model: str) -> None:
    """The export belongs to the project that ordered it; the owner of the model does not see it."""
    theirs, key = new_project(server.database, "friends")
    with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {key}"}) as friend:
        assert friend.post(f"/models/{model}/exports", json={"format": "merged"}).status_code == 404
        with server.database.transaction() as session:
            permissions.grant(session, server.project_id, model, [theirs])
        export = order(friend, model)
        assert http.get(f"/exports/{export['id']}").status_code == 404
        assert http.get(f"/models/{model}/exports").json()["data"] == []
        assert order(http, model)["id"] != export["id"]


def test_archive_downloads_in_ranges(http: httpx.Client, server: Server, model: str) -> None:
    export_id = succeeded(server, model)
    path = f"/exports/{export_id}/content"
    whole = http.get(path)
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"123456789", "9")
    assert whole.headers["content-type"] == "application/x-tar"
    assert whole.headers["content-disposition"].endswith('-merged.tar"')
    export = http.get(f"/exports/{export_id}").json()
    assert (export["status"], export["bytes"]) == ("succeeded", 9)
    assert whole.headers["etag"] == f'"{export["sha256"]}"'
    for requested, content, shown in (
        ("bytes=0-3", b"1234", "bytes 0-3/9"),
        ("bytes=5-", b"6789", "bytes 5-8/9"),
        ("bytes=7-100", b"89", "bytes 7-8/9"),
        ("bytes=-2", b"89", "bytes 7-8/9"),
        ("bytes=-100", b"123456789", "bytes 0-8/9"),
    ):
        part = http.get(path, headers={"range": requested})
        assert (part.status_code, part.content, part.headers["content-range"]) == (206, content, shown)
        assert part.headers["content-length"] == str(len(content))
    behind = http.get(path, headers={"range": "bytes=9-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, "bytes */9")
    for odd in ("bytes=-", "bytes=1-2,4-5", "rows=1-2", "bytes=x-"):
        assert http.get(path, headers={"range": odd}).status_code == 200
    changed = http.get(path, headers={"range": "bytes=5-", "if-range": '"another"'})
    assert (changed.status_code, len(changed.content)) == (200, 9)


def test_unfinished_export_has_no_content(http: httpx.Client, model: str) -> None:
    export = order(http, model)
    answer = http.get(f"/exports/{export['id']}/content")
    assert error_of(answer) == (400, "export_not_ready", None)
    assert "is queued" in answer.text


def test_cancel_ends_an_unfinished_export(http: httpx.Client, server: Server, model: str) -> None:
    export = order(http, model)
    cancelled = http.post(f"/exports/{export['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["finished_at"] is not None
    assert http.post(f"/exports/{export['id']}/cancel").json() == cancelled
    again = order(http, model)
    assert again["id"] != export["id"]
    http.delete(f"/exports/{again['id']}")
    done = succeeded(server, model)
    assert error_of(http.post(f"/exports/{done}/cancel")) == (400, "export_finished", None)
    admin = {"authorization": f"Bearer {new_key(server.database, server.project_id, 'admin')}"}
    log = httpx.get(f"{server.url}/v1/audit_log", headers=admin).json()["data"]
    assert [entry["action"] for entry in log][:4] == [
        "export.create",
        "export.delete",
        "export.create",
        "export.cancel",
    ]


def test_deletion_removes_the_archive(http: httpx.Client, server: Server, model: str) -> None:
    export_id = succeeded(server, model)
    assert http.delete(f"/exports/{export_id}").json() == {"id": export_id, "object": "model.export", "deleted": True}
    assert error_of(http.get(f"/exports/{export_id}")) == (404, "export_not_found", None)
    assert server.store.list(f"exports/{export_id}") == []


def test_deleted_model_takes_its_exports_along(http: httpx.Client, server: Server, model: str) -> None:
    export_id = succeeded(server, model)
    with server.database.transaction() as session:
        claimed = stored_claim(session, server, model)
    assert http.delete(f"/models/{model}").status_code == 200
    assert http.get(f"/exports/{export_id}").status_code == 404
    assert server.store.list(f"exports/{export_id}") == []
    with server.database.transaction() as session:
        assert claims.renew(session, claimed, 60, "Merging", 0.5) is None


def stored_claim(session: Any, server: Server, model: str) -> claims.ExportClaim:
    """Insert a running export."""
    export = Export(
        id="export-running", project_id=server.project_id, model=model, format="merged", options={"other": 1}
    )
    session.add(export)
    session.flush()
    claim = claims.claim_next(session, 60, timedelta(days=1))
    assert claim is not None
    return claim


def test_expired_exports_are_removed(http: httpx.Client, server: Server, model: str) -> None:
    export_id = succeeded(server, model)
    assert http.get("/models/x/exports").status_code == 404
    with server.database.transaction() as session:
        session.execute(update(Export).values(expires_at=func.now()))
    assert http.get(f"/exports/{export_id}").status_code == 404
    assert order(http, model)["id"] != export_id
    expiry.remove_expired(server.database, server.store)
    assert server.store.list(f"exports/{export_id}") == []
    with server.database.transaction() as session:
        assert session.get(Export, export_id) is None


def test_archives_count_as_stored_bytes(http: httpx.Client, server: Server, model: str, tmp_path: Path) -> None:
    succeeded(server, model)
    with server.database.transaction() as session:
        session.get_one(Project, server.project_id).max_stored_bytes = 9
    other = publish(server, tmp_path / "other")
    answer = http.post(f"/models/{other}/exports", json={"format": "merged"})
    assert error_of(answer)[:2] == (429, "quota_exceeded")
    assert "this export has" in answer.text


def test_killed_attempts_end_in_a_failed_export(http: httpx.Client, server: Server, model: str) -> None:
    """A killed worker reports nothing: the next claim ends the export, and webhooks report it."""
    endpoint = {"name": "x", "url": "https://x.example", "event_types": ["model.export.failed"]}
    writer = {"authorization": f"Bearer {new_key(server.database, server.project_id, 'webhooks:write')}"}
    assert httpx.post(f"{server.url}/v1/webhook_endpoints", json=endpoint, headers=writer).status_code == 200
    export = order(http, model)
    for attempt in (1, 2, 3, 4):
        with server.database.transaction() as session:
            claim = claims.claim_next(session, 60, timedelta(days=1))
            session.execute(update(Export).values(claimed_until=func.now() - timedelta(seconds=1)))
        assert (claim and claim.attempt) == (attempt if attempt < 4 else None)
    failed = http.get(f"/exports/{export['id']}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "export_crashed")
    with server.database.transaction() as session:
        assert [*session.scalars(select(WebhookDelivery.event_type))] == ["model.export.failed"]
