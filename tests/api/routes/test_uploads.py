"""Uploads in parts through the official SDK."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types import Upload as UploadObject

from app.core.files.chunked_uploads import MAX_PART_BYTES
from app.core.files.tables import File, Upload
from tests.api.jobs import create, gft
from tests.api.server import Server, lenient_and_strict, new_project
from worker.maintenance.expiry import remove_expired

CONTENT = b'{"prompt": "1+1=", "completion": "2"}\n'


def start(client: OpenAI, content: bytes = CONTENT, **fields: Any) -> UploadObject:
    wanted: dict[str, Any] = {"filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    return client.uploads.create(bytes=len(content), **(wanted | fields))


@lenient_and_strict
def test_parts_in_any_order_make_a_file(server: Server, client: OpenAI) -> None:
    upload = start(client)
    assert (upload.object, upload.status, upload.filename) == ("upload", "pending", "rows.jsonl")
    assert (upload.bytes, upload.purpose, upload.file) == (len(CONTENT), "fine-tune", None)
    assert upload.expires_at - upload.created_at == 3600
    second = client.uploads.parts.create(upload.id, data=CONTENT[20:])
    first = client.uploads.parts.create(upload.id, data=CONTENT[:20])
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=md5.upper())
    assert (done.id, done.status) == (upload.id, "completed")
    assert done.file is not None
    assert (done.file.bytes, done.file.filename, done.file.status) == (len(CONTENT), "rows.jsonl", "uploaded")
    job = create(client, done.file.id)
    assert job.status == "validating_files"
    server.validate_files()
    assert client.files.wait_for_processing(done.file.id, poll_interval=0.01).status == "processed"
    assert client.files.content(done.file.id).content == CONTENT
    with server.database.transaction() as session:
        assert session.get_one(File, done.file.id).sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("part_size", [None, 3, 4_000])
def test_upload_file_chunked(client: OpenAI, rows: Path, part_size: int | None) -> None:
    content = rows.read_bytes()[: 100 if part_size == 3 else None]
    rows.write_bytes(content)
    done = client.uploads.upload_file_chunked(
        file=rows, mime_type="application/jsonl", purpose="fine-tune", part_size=part_size
    )
    assert done.file is not None
    assert done.file.filename == rows.name
    assert client.files.content(done.file.id).content == content
    assert [file.id for file in client.files.list()] == [done.file.id]


def test_sdk_chunked_upload(server: Server) -> None:
    async def send() -> Any:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.api_key) as client:
            return await client.uploads.upload_file_chunked(
                file=CONTENT, filename="m", bytes=len(CONTENT), mime_type="x/y", purpose="user_data", part_size=7
            )

    done = asyncio.run(send())
    assert server.client().files.content(done.file.id).content == CONTENT


def test_parts_may_arrive_at_once(client: OpenAI) -> None:
    content = os.urandom(400_000)
    upload = start(client, content, purpose="user_data")
    pieces = [content[at : at + 50_000] for at in range(0, len(content), 50_000)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda piece: client.uploads.parts.create(upload.id, data=piece).id, pieces))
    done = client.uploads.complete(upload.id, part_ids=parts)
    assert done.file is not None
    assert client.files.content(done.file.id).content == content


def test_wrong_parts_are_refused_then_corrected(client: OpenAI) -> None:
    upload = start(client)
    half = client.uploads.parts.create(upload.id, data=CONTENT[:20]).id
    rest = client.uploads.parts.create(upload.id, data=CONTENT[20:]).id
    for part_ids, param, message in (
        ([half], "part_ids", f"hold 20 bytes, but the upload announced {len(CONTENT)}"),
        ([half, half], "part_ids", "twice"),
        ([half, "part_unknown"], "part_ids.1", "no part 'part_unknown'"),
    ):
        with pytest.raises(BadRequestError, match=message) as caught:
            client.uploads.complete(upload.id, part_ids=part_ids)
        assert (caught.value.code, caught.value.param) == ("upload_mismatch", param)
    with pytest.raises(BadRequestError, match="MD5") as caught:
        client.uploads.complete(upload.id, part_ids=[half, rest], md5="0" * 32)
    assert (caught.value.code, caught.value.param) == ("upload_mismatch", "md5")
    bodies: tuple[dict[str, object], ...] = ({"part_ids": []}, {"part_ids": [half, rest], "md5": "abc"}, {})
    for body in bodies:
        with pytest.raises(BadRequestError):
            client.post(f"/uploads/{upload.id}/complete", body=body, cast_to=object)
    assert list(client.files.list()) == []
    assert client.uploads.complete(upload.id, part_ids=[half, rest]).status == "completed"


def test_repeated_completion_returns_the_file(server: Server, client: OpenAI) -> None:
    upload = start(client)
    parts = [client.uploads.parts.create(upload.id, data=CONTENT).id]
    before = server.store.list("files")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: client.uploads.complete(upload.id, part_ids=parts), range(4)))
    file_ids = {upload.file.id for upload in done if upload.file is not None}
    assert len(file_ids) == 1
    file_id = file_ids.pop()
    assert [file.id for file in client.files.list()] == [file_id]
    assert set(server.store.list("files")) == {*before, f"files/{file_id}"}
    remove_expired(server.database, server.store)
    assert client.uploads.complete(upload.id, part_ids=parts).file == done[0].file
    with pytest.raises(BadRequestError) as caught:
        client.uploads.complete(upload.id, part_ids=["part_other"])
    assert caught.value.code == "upload_closed"
    client.files.delete(file_id)
    assert client.uploads.complete(upload.id, part_ids=parts).file is None


@lenient_and_strict
def test_cancelled_upload_is_closed_and_emptied(server: Server, client: OpenAI) -> None:
    upload = start(client)
    part = client.uploads.parts.create(upload.id, data=CONTENT).id
    assert server.store.list(f"uploads/{upload.id}") == [f"uploads/{upload.id}/{part}"]
    for _ in range(2):
        assert client.uploads.cancel(upload.id).status == "cancelled"
    refused_when_closed(client, upload.id, part)
    remove_expired(server.database, server.store)
    assert server.store.list(f"uploads/{upload.id}") == []


def refused_when_closed(client: OpenAI, upload_id: str, part: str) -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: client.uploads.parts.create(upload_id, data=CONTENT),
        lambda: client.uploads.complete(upload_id, part_ids=[part]),
    ]
    for attempt in attempts:
        with pytest.raises(BadRequestError) as caught:
            attempt()
        assert caught.value.code == "upload_closed"


@lenient_and_strict
def test_an_upload_expires_with_its_parts(server: Server, client: OpenAI) -> None:
    upload = start(client)
    part = client.uploads.parts.create(upload.id, data=CONTENT).id
    with server.database.transaction() as session:
        session.get_one(Upload, upload.id).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    refused_when_closed(client, upload.id, part)
    remove_expired(server.database, server.store)
    assert server.store.list(f"uploads/{upload.id}") == []
    refused_when_closed(client, upload.id, part)
    with pytest.raises(BadRequestError, match="expired"):
        client.uploads.cancel(upload.id)


def test_completed_upload_is_final(server: Server, client: OpenAI) -> None:
    upload = start(client)
    part = client.uploads.parts.create(upload.id, data=CONTENT).id
    done = client.uploads.complete(upload.id, part_ids=[part])
    remove_expired(server.database, server.store)
    assert server.store.list(f"uploads/{upload.id}") == []
    with pytest.raises(BadRequestError) as caught:
        client.uploads.cancel(upload.id)
    assert caught.value.code == "upload_closed"
    assert done.file is not None
    assert client.files.content(done.file.id).content == CONTENT


def test_uploaded_file_expires_as_requested(client: OpenAI) -> None:
    upload = start(client, expires_after={"anchor": "created_at", "seconds": 3600})
    part = client.uploads.parts.create(upload.id, data=CONTENT).id
    file = client.uploads.complete(upload.id, part_ids=[part]).file
    assert file is not None
    assert file.expires_at == file.created_at + 3600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1, "purpose": "user_data"}, "bytes"),
        ({"bytes": 2_000_000_001}, "bytes"),
        ({"purpose": "fine-tune-results"}, "purpose"),
        ({"filename": ""}, "filename"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds"),
        ({"checksum": "x"}, "checksum"),
    ],
)
def test_impossible_upload_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    body = {"bytes": 1, "filename": "a", "mime_type": "b", "purpose": "fine-tune"} | fields
    with pytest.raises(BadRequestError) as caught:
        client.post("/uploads", body=body, cast_to=object)
    assert caught.value.param == param


def test_eight_gigabytes_may_be_announced(client: OpenAI) -> None:
    upload = client.uploads.create(bytes=8 * 1024**3, filename="a", mime_type="b", purpose="user_data")
    assert upload.status == "pending"


def test_bad_parts_leave_nothing(server: Server) -> None:
    client = server.client()
    upload = start(client)
    with pytest.raises(BadRequestError, match="empty"):
        client.uploads.parts.create(upload.id, data=b"")
    with pytest.raises(BadRequestError) as caught:
        client.post(f"/uploads/{upload.id}/parts", body={}, cast_to=object)
    assert caught.value.param == "data"
    for size in (MAX_PART_BYTES + 1, MAX_PART_BYTES + 1_000_000):
        with pytest.raises(APIStatusError, match=r"(?i)send smaller") as too_large:
            client.uploads.parts.create(upload.id, data=bytes(size))
        assert too_large.value.status_code == 413
    assert server.store.list(f"uploads/{upload.id}") == []


def test_largest_part_is_64_mib(server: Server) -> None:
    client = server.client()
    upload = start(client, bytes(MAX_PART_BYTES), purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=bytes(MAX_PART_BYTES)).id
    assert client.uploads.complete(upload.id, part_ids=[part]).status == "completed"


def test_part_may_be_replaced_a_few_times(server: Server) -> None:
    client = server.client()
    with server.database.transaction() as session:
        upload_id = start(client).id
        session.get_one(Upload, upload_id).bytes = 1  # so that little more than one large part fits
    piece = bytes(MAX_PART_BYTES // 2)
    for _ in range(2):
        client.uploads.parts.create(upload_id, data=piece)
    with pytest.raises(BadRequestError, match="Complete it") as caught:
        client.uploads.parts.create(upload_id, data=piece)
    assert caught.value.code == "upload_mismatch"


def test_uploads_of_other_projects_are_404(server: Server, client: OpenAI) -> None:
    upload = start(client)
    part = client.uploads.parts.create(upload.id, data=CONTENT).id
    stranger = server.client(api_key=new_project(server.database, "stranger")[1])
    attempts: list[Callable[[], Any]] = [
        lambda: stranger.uploads.parts.create(upload.id, data=CONTENT),
        lambda: stranger.uploads.complete(upload.id, part_ids=[part]),
        lambda: stranger.uploads.cancel(upload.id),
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError):
            attempt()
    theirs = start(stranger)
    with pytest.raises(BadRequestError) as caught:
        stranger.uploads.complete(theirs.id, part_ids=[part])
    assert caught.value.code == "upload_mismatch"
    assert client.uploads.complete(upload.id, part_ids=[part]).status == "completed"


def test_job_on_a_file_from_parts(server: Server, client: OpenAI, rows: Path) -> None:
    done = client.uploads.upload_file_chunked(file=rows, mime_type="application/jsonl", purpose="fine-tune")
    assert done.file is not None
    server.validate_files()
    assert create(client, done.file.id, gft()).status == "queued"
