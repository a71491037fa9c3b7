"""Files through the official SDK."""

import hashlib
import http.client
import json
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from openai.types import FileDeleted

from app.core.files.uploads import get_file
from tests.api.conftest import MAX_FILE_BYTES
from tests.api.jobs import broken_at_17
from tests.api.server import Server, new_project


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


def test_bytes_without_a_name_are_fine(client: OpenAI) -> None:
    file = client.files.create(file=b'{"prompt": "1", "completion": "2"}', purpose="fine-tune")
    assert file.filename == "upload"


def test_the_stored_digest_is_that_of_the_content(server: Server, client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    with server.database.transaction() as session:
        row = get_file(session, server.project_id, file.id)
    assert row.sha256 == hashlib.sha256(rows.read_bytes()).hexdigest()


def test_a_broken_line_is_named_in_status_details_and_report(server: Server, client: OpenAI) -> None:
    file = client.files.create(file=broken_at_17(), purpose="fine-tune")
    server.validate_files()
    file = client.files.wait_for_processing(file.id, poll_interval=0.01)
    assert file.status == "error"
    assert (file.status_details or "").startswith("line 17: ")
    report = client.get(f"/files/{file.id}/report", cast_to=object)
    assert isinstance(report, dict)
    assert report["report"]["errors"][0]["line"] == 17
    assert report["report"]["error_count"] == 1


def test_the_report_of_a_waiting_file_is_null(client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    report = client.get(f"/files/{file.id}/report", cast_to=object)
    assert isinstance(report, dict)
    assert report["status"] == "uploaded"
    assert report["report"] is None


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


def test_files_of_another_project_do_not_exist(server: Server, client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    assert list(stranger.files.list()) == []
    for attempt in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
        with pytest.raises(NotFoundError):
            attempt(file.id)
    assert client.files.retrieve(file.id).id == file.id


@pytest.mark.parametrize("purpose", ["finetune", ""])
def test_an_unknown_purpose_is_refused(client: OpenAI, purpose: str) -> None:
    with pytest.raises(BadRequestError, match="fine-tune") as caught:
        client.files.create(file=b"{}", purpose=purpose)  # type: ignore[arg-type]
    assert caught.value.param == "purpose"


def test_a_form_without_a_file_or_with_too_much_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="multipart/form-data") as caught:
        client.post("/files", body={"purpose": "fine-tune"}, cast_to=object)
    assert caught.value.param == "file"
    with pytest.raises(BadRequestError, match="empty") as caught:
        client.files.create(file=b"", purpose="fine-tune")
    assert caught.value.param == "file"
    with pytest.raises(BadRequestError) as caught:
        client.files.create(file=b"{}", purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    assert caught.value.param == "expires_after[anchor]"


def test_a_file_over_the_cap_is_413_and_leaves_nothing(server: Server, client: OpenAI) -> None:
    before = server.store.list("files")
    for size in (MAX_FILE_BYTES + 1, MAX_FILE_BYTES + 100_000, 20 * MAX_FILE_BYTES):
        with pytest.raises(APIStatusError, match="GROUPTUNE_MAX_FILE_BYTES") as caught:
            client.files.create(file=b"x" * size, purpose="fine-tune")
        assert caught.value.status_code == 413
        assert caught.value.code == "payload_too_large"
    assert server.store.list("files") == before
    assert client.files.create(file=b"x" * MAX_FILE_BYTES, purpose="fine-tune").bytes == MAX_FILE_BYTES


def chunked(server: Server, headers: dict[str, str], pieces: int) -> tuple[int, dict[str, dict[str, str]]]:
    """Status and body of an upload that declares no length."""
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


def test_the_cap_counts_bytes_when_no_length_is_declared(server: Server) -> None:
    bearer = {"authorization": f"Bearer {server.api_key}"}
    status, body = chunked(server, bearer, pieces=20)
    assert (status, body["error"]["code"]) == (413, "payload_too_large")
    assert chunked(server, bearer, pieces=2)[0] == 200


def test_nobody_without_a_key_gets_to_upload(server: Server) -> None:
    status, body = chunked(server, {}, pieces=2)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
