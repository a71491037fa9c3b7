"""Files through the official SDK."""

import base64
import hashlib
import http.client
import io
import json
import os
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from openai.types import FileDeleted

from app.core.files.uploads import get_file
from tests.api.conftest import MAX_FILE_BYTES
from tests.api.jobs import broken_at_17, refused
from tests.api.server import Server, lenient_and_strict, new_project, serve, variant
from tests.small_disk import small_disk
from tests.tiny_model import write_rows


@lenient_and_strict
def test_upload_validate_download_delete(server: Server, client: OpenAI, rows: Path) -> None:
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    assert (file.object, file.status, file.filename, file.purpose) == (
        "file",
        "uploaded",
        "rows.jsonl",
        "fine-tune",
    )
    assert file.bytes == rows.stat().st_size
    assert isinstance(file.created_at, int)
    server.validate_files()
    assert client.files.wait_for_processing(file.id, poll_interval=0.01).status == "processed"
    assert client.files.content(file.id).content == rows.read_bytes()
    deleted = client.files.delete(file.id)
    assert isinstance(deleted, FileDeleted)
    assert deleted.deleted
    with pytest.raises(NotFoundError) as caught:
        client.files.retrieve(file.id)
    assert caught.value.code == "not_found"
    assert not server.store.exists(f"files/{file.id}")


ROW = b'{"prompt": "1", "completion": "2"}'


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (ROW, "upload"),
        (io.BytesIO(ROW), "upload"),
        (("a b/ä.txt", ROW), "a b/ä.txt"),
        (("rows.jsonl", io.BytesIO(ROW), "application/json"), "rows.jsonl"),
    ],
    ids=["bytes", "stream", "pair", "triple"],
)
def test_every_file_form_of_the_sdk(server: Server, client: OpenAI, sent: Any, name: str) -> None:
    file = client.files.create(file=sent, purpose="fine-tune")
    assert (file.filename, file.bytes) == (name, len(ROW))
    server.validate_files()
    assert client.files.wait_for_processing(file.id, poll_interval=0.01).status == "processed"
    assert client.files.content(file.id).content == ROW


def test_fields_may_come_in_any_order(server: Server) -> None:
    fields = [
        b'name="file"; filename="f"\r\nContent-Type: application/octet-stream\r\n\r\n' + ROW,
        b'name="expires_after[seconds]"\r\n\r\n7200',
        b'name="purpose"\r\n\r\nfine-tune',
        b'name="expires_after[anchor]"\r\n\r\ncreated_at',
    ]
    body = b"".join(b"--b\r\nContent-Disposition: form-data; " + field + b"\r\n" for field in fields) + b"--b--\r\n"
    headers = {"authorization": f"Bearer {server.api_key}", "content-type": "multipart/form-data; boundary=b"}
    file = httpx.post(f"{server.url}/v1/files", content=body, headers=headers).json()
    assert (file["filename"], file["bytes"], file["purpose"]) == ("f", len(ROW), "fine-tune")
    assert file["expires_at"] - file["created_at"] == 7200


@lenient_and_strict
def test_evals_purpose_by_strictness(client: OpenAI) -> None:
    file = client.files.create(file=ROW, purpose="evals")
    strict = "x-grouptune-strict-enums" in client.default_headers
    assert str(file.purpose) == ("user_data" if strict else "evals")
    assert [file_object.id for file_object in client.files.list(purpose="evals")] == [file.id]


@lenient_and_strict
def test_files_of_other_purposes_have_no_rows(server: Server, client: OpenAI) -> None:
    file = client.files.create(file=b"\xff\x00 no rows", purpose="user_data")
    server.validate_files()
    file = client.files.retrieve(file.id)
    assert (file.status, file.status_details) == ("processed", None)


def test_stored_digest_matches_the_content(server: Server, client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    with server.database.transaction() as session:
        row = get_file(session, server.project_id, file.id)
    assert row.sha256 == hashlib.sha256(rows.read_bytes()).hexdigest()


def test_files_are_found_by_their_content(server: Server, client: OpenAI, rows: Path) -> None:
    digest = hashlib.sha256(rows.read_bytes()).hexdigest()
    first, second = (client.files.create(file=rows, purpose="fine-tune") for _ in range(2))
    client.files.create(file=ROW, purpose="fine-tune")
    found = client.get("/files", cast_to=object, options={"params": {"sha256": digest, "purpose": "fine-tune"}})
    assert isinstance(found, dict)
    assert [(file["id"], file["sha256"]) for file in found["data"]] == [(second.id, digest), (first.id, digest)]
    for filters in ({"sha256": "0" * 64}, {"sha256": digest, "purpose": "evals"}):
        nothing = client.get("/files", cast_to=object, options={"params": filters})
        assert isinstance(nothing, dict)
        assert nothing["data"] == []
    with pytest.raises(BadRequestError, match="sha256"):
        client.get("/files", cast_to=object, options={"params": {"sha256": "abc"}})


def test_equal_uploads_share_their_content(server: Server, client: OpenAI, rows: Path) -> None:
    """Each upload is a file of its own, whose deletion leaves the others; the disk has the content once."""
    first, second = (client.files.create(file=rows, purpose="fine-tune") for _ in range(2))
    content = rows.read_bytes()
    upload = client.uploads.create(bytes=len(content), filename="x", mime_type="text/plain", purpose="fine-tune")
    part = client.uploads.parts.create(upload.id, data=content)
    third = client.uploads.complete(upload.id, part_ids=[part.id]).file
    assert third is not None
    ids = [first.id, second.id, third.id]
    assert len(set(ids)) == 3
    paths = [server.store.path(f"files/{file}") for file in ids]
    assert {path.stat().st_nlink for path in paths} == {3}
    client.files.delete(first.id)
    assert [client.files.content(file).read() for file in ids[1:]] == [content, content]
    server.validate_files()
    assert [client.files.retrieve(file).status for file in ids[1:]] == ["processed", "processed"]


@lenient_and_strict
def test_invalid_line_is_reported(server: Server, client: OpenAI) -> None:
    file = client.files.create(file=broken_at_17(), purpose="fine-tune")
    server.validate_files()
    file = client.files.wait_for_processing(file.id, poll_interval=0.01)
    assert file.status == "error"
    assert (file.status_details or "").startswith("line 17: ")
    report = client.get(f"/files/{file.id}/report", cast_to=object)
    assert isinstance(report, dict)
    assert report["report"]["errors"][0]["line"] == 17
    assert report["report"]["error_count"] == 1


def test_report_is_null_before_validation(client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    report = client.get(f"/files/{file.id}/report", cast_to=object)
    assert isinstance(report, dict)
    assert report["status"] == "uploaded"
    assert report["report"] is None


@lenient_and_strict
def test_lists_page_through_everything_once(server: Server, client: OpenAI) -> None:
    created = [client.files.create(file=b"{}", purpose="fine-tune").id for _ in range(5)]
    assert [file.id for file in islice(client.files.list(limit=2), 20)] == created[::-1]
    assert [file.id for file in islice(client.files.list(limit=2, order="asc"), 20)] == created
    assert [file.id for file in client.files.list(purpose="batch")] == []
    raw = client.get("/files?limit=2", cast_to=object)
    assert isinstance(raw, dict)
    assert (raw["has_more"], raw["first_id"], raw["last_id"]) == (True, created[4], created[3])
    with pytest.raises(BadRequestError) as caught:
        client.files.list(after="file-unknown")
    assert caught.value.param == "after"


def test_page_of_files_is_limited(client: OpenAI) -> None:
    assert client.files.list(limit=10_000).data == []
    for limit in (0, 10_001):
        with pytest.raises(BadRequestError) as caught:
            client.files.list(limit=limit)
        assert caught.value.param == "limit"
    with pytest.raises(BadRequestError) as caught:
        client.files.list(order="newest")  # type: ignore[arg-type]
    assert caught.value.param == "order"


def test_content_is_plain_or_base64(server: Server) -> None:
    client = server.client()
    content = os.urandom(200_002)
    file = client.files.create(file=content, purpose="user_data")
    bearer = {"authorization": f"Bearer {server.api_key}"}
    path = f"{server.url}/v1/files/{file.id}/content"
    plain = httpx.get(path, headers=bearer | {"accept": "application/binary"})
    assert (plain.status_code, plain.content) == (200, content)
    encoded = httpx.get(path, headers=bearer, params={"encoding": "base64"})
    assert int(encoded.headers["content-length"]) == len(encoded.content)
    assert base64.b64decode(encoded.content, validate=True) == content
    assert httpx.get(path, headers=bearer, params={"encoding": "hex"}).json()["error"]["param"] == "encoding"


@lenient_and_strict
def test_file_expires_after_its_creation(client: OpenAI) -> None:
    file = client.files.create(file=ROW, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    assert client.files.retrieve(file.id).expires_at == file.expires_at
    assert client.files.create(file=ROW, purpose="fine-tune").expires_at is None


@pytest.mark.parametrize(
    ("expiry", "param"),
    [
        ({"anchor": "created_at", "seconds": 3599}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 2_592_001}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "soon"}, "expires_after.seconds"),
        ({"anchor": "created_at"}, "expires_after.seconds"),
        ({"anchor": "last_active_at", "seconds": 3600}, "expires_after.anchor"),
        ({"seconds": 3600}, "expires_after.anchor"),
    ],
)
def test_invalid_expiry_is_refused(server: Server, client: OpenAI, expiry: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.files.create(file=ROW, purpose="fine-tune", expires_after=expiry)
    assert caught.value.param == param
    assert list(client.files.list()) == []


def test_an_expired_file_is_gone(server: Server, client: OpenAI, training_file: str) -> None:
    there = client.files.create(file=ROW, purpose="fine-tune")
    with server.database.transaction() as session:
        get_file(session, server.project_id, training_file).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    for attempt in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(NotFoundError):
            attempt(training_file)
    with pytest.raises(NotFoundError):
        client.get(f"/files/{training_file}/report", cast_to=object)
    assert [file.id for file in client.files.list()] == [there.id]
    assert refused(client, training_file).code == "file_not_found"


def test_files_of_other_projects_are_404(server: Server, client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    assert list(stranger.files.list()) == []
    for attempt in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
        with pytest.raises(NotFoundError):
            attempt(file.id)
    assert client.files.retrieve(file.id).id == file.id


@pytest.mark.parametrize("purpose", ["finetune", "", "fine-tune-results", "batch_output"])
def test_an_unknown_purpose_is_refused(client: OpenAI, purpose: str) -> None:
    with pytest.raises(BadRequestError, match="fine-tune") as caught:
        client.files.create(file=b"{}", purpose=purpose)  # type: ignore[arg-type]
    assert caught.value.param == "purpose"


def test_wrong_form_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="multipart/form-data") as caught:
        client.post("/files", body={"purpose": "fine-tune"}, cast_to=object)
    assert caught.value.param == "file"
    with pytest.raises(BadRequestError, match="empty") as caught:
        client.files.create(file=b"", purpose="fine-tune")
    assert caught.value.param == "file"
    with pytest.raises(BadRequestError, match="unknown") as caught:
        client.files.create(file=b"{}", purpose="fine-tune", extra_body={"visible": {"to": ["a"]}})
    assert caught.value.param == "visible[to][]"


def test_file_over_the_limit_is_413(server: Server, client: OpenAI) -> None:
    before = server.store.list("files")
    for size in (MAX_FILE_BYTES + 1, MAX_FILE_BYTES + 100_000, 20 * MAX_FILE_BYTES):
        with pytest.raises(APIStatusError, match="GROUPTUNE_MAX_FILE_BYTES") as caught:
            client.files.create(file=b"x" * size, purpose="fine-tune")
        assert caught.value.status_code == 413
        assert caught.value.code == "payload_too_large"
    assert server.store.list("files") == before
    assert client.files.create(file=b"x" * MAX_FILE_BYTES, purpose="fine-tune").bytes == MAX_FILE_BYTES


def chunked(server: Server, headers: dict[str, str], pieces: int) -> tuple[int, dict[str, dict[str, str]]]:
    """Return status and body of an upload that declares no length."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="upload"\r\n\r\n'
    )
    body = [head, *[b"x" * 50_000] * pieces, b"\r\n--b--\r\n"]
    kind = {"content-type": "multipart/form-data; boundary=b"}
    connection.request("POST", "/v1/files", body=iter(body), headers=headers | kind, encode_chunked=True)
    response = connection.getresponse()
    try:
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_file_limit_counts_undeclared_bytes(server: Server) -> None:
    bearer = {"authorization": f"Bearer {server.api_key}"}
    status, body = chunked(server, bearer, pieces=20)
    assert (status, body["error"]["code"]) == (413, "payload_too_large")
    assert chunked(server, bearer, pieces=2)[0] == 200


def test_upload_without_a_key_is_refused(server: Server) -> None:
    status, body = chunked(server, {}, pieces=2)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def test_upload_to_a_full_disk_is_507(server: Server, tmp_path: Path) -> None:
    """The failed upload leaves no row and no bytes, and a smaller file is accepted afterwards."""
    rows = write_rows(tmp_path / "rows.jsonl", 1000)
    with small_disk(tmp_path / "state" / "storage", kibibytes=64) as disk:
        settings = variant(server.settings, state_dir=tmp_path / "state")
        with serve(settings) as url, OpenAI(base_url=f"{url}/v1", api_key=server.api_key) as client:
            with pytest.raises(APIStatusError) as caught:
                client.files.create(file=rows, purpose="fine-tune")
            assert (caught.value.status_code, caught.value.code) == (507, "storage_full")
            assert list(client.files.list()) == []
            assert [path for path in disk.rglob("*") if path.is_file()] == []
            small = client.files.create(file=b'{"messages": []}', purpose="fine-tune")
            assert client.files.content(small.id).read() == b'{"messages": []}'
