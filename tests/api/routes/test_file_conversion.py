"""Files of other formats: the report names the cause, and `convert` makes a new file of rows."""

import gzip
import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from openai import BadRequestError, OpenAI

from app.core.files.archives import Unconvertible
from app.core.files.conversion_process import convert_file
from tests.api.conftest import MAX_FILE_BYTES
from tests.api.server import Server
from tests.core.files.test_formats import ACCENTS, CHAT, CONVERTIBLE, SHAPES, jsonl

CASES: Final = {
    **{name: CONVERTIBLE[name][0] for name in ("indented", "array", "python", "csv", "utf-16", "cp1252", "gzip")},
    **{name: jsonl([SHAPES[name][0]] * 36) for name in ("sharegpt", "alpaca", "question", "number", "role", "chatml")},
}
"""One of each kind: each costs four processes. tests/core/files has them all."""
CSV: Final = b"question,answer,level\n1+1=,2,easy\n2+1=,3,easy\n"


@pytest.fixture
def client(server: Server) -> OpenAI:
    """One client: the form of enum values does not matter here."""
    return server.client()


def uploaded(server: Server, client: OpenAI, content: bytes, name: str = "rows.jsonl") -> Any:
    file = client.files.create(file=(name, content), purpose="fine-tune")
    server.validate_files()
    return client.files.retrieve(file.id)


def report(client: OpenAI, file_id: str) -> Any:
    return client.get(f"/files/{file_id}/report", cast_to=object)["report"]  # type: ignore[index]


def convert(client: OpenAI, file_id: str, body: Any = None) -> Any:
    return client.post(f"/files/{file_id}/convert", body=body or {}, cast_to=object)


def preview(client: OpenAI, file_id: str, body: Any = None) -> Any:
    return client.post(f"/files/{file_id}/convert/preview", body=body or {}, cast_to=object)


@pytest.mark.parametrize("name", CASES)
def test_refused_file_converts_to_a_valid_one(server: Server, client: OpenAI, name: str) -> None:
    file = uploaded(server, client, CASES[name], "data.other")
    assert (file.status, file.has_answers) == ("error", None)
    assert "`grouptune files convert FILE`" in file.status_details
    assert "more error" not in file.status_details
    found = report(client, file.id)
    assert (found["error_count"], found["conversion"], found["errors"][0]["line"]) == (1, {}, None)
    made = convert(client, file.id)
    assert (made["filename"], made["status"], made["purpose"]) == ("data.jsonl", "uploaded", "fine-tune")
    server.validate_files()
    made = client.files.retrieve(made["id"])
    assert (made.status, made.has_answers) == ("processed", True), made.status_details  # type: ignore[attr-defined]
    rows = [json.loads(line) for line in client.files.content(made.id).content.splitlines()]
    assert preview(client, file.id)["data"] == rows[:5]
    assert client.files.content(file.id).content == CASES[name]


def test_valid_file_without_answers_has_a_mapping(server: Server, client: OpenAI) -> None:
    rows = [{"prompt": str(n), "response": "b"} for n in range(3)]
    file = uploaded(server, client, jsonl(rows))
    assert (file.status, file.has_answers) == ("processed", False)
    assert file.status_details.endswith("; no row has an answer to learn from")
    found = report(client, file.id)
    assert found["conversion"] == {"completion": "response"}
    assert [(warning["line"], warning["param"]) for warning in found["warnings"]] == [(None, "response")]
    body = {"map": found["conversion"], "limit": 1}
    shown = preview(client, file.id, body)
    assert (shown["filename"], shown["data"]) == ("rows.jsonl", [{"prompt": "0", "completion": "b"}])
    made = convert(client, file.id, body)
    server.validate_files()
    assert client.files.retrieve(made["id"]).has_answers is True  # type: ignore[attr-defined]


def test_unconvertible_file_is_refused_with_the_fix(server: Server, client: OpenAI) -> None:
    file = uploaded(server, client, b"The harbour opens at six.\n")
    assert report(client, file.id)["conversion"] is None
    for attempt in (convert, preview):
        with pytest.raises(BadRequestError) as caught:
            attempt(client, file.id)
        assert caught.value.code == "invalid_file"
        assert "plain text; write each row as a JSON object" in caught.value.message
    assert [listed.id for listed in client.files.list()] == [file.id]
    with pytest.raises(BadRequestError, match="no row has the field `query`"):
        convert(client, uploaded(server, client, CSV).id, {"map": {"prompt": "query"}})
    other = client.files.create(file=CSV, purpose="user_data")
    with pytest.raises(BadRequestError, match="contain no rows"):
        convert(client, other.id)


def test_converted_file_expires_with_its_source(server: Server, client: OpenAI) -> None:
    file = client.files.create(file=CSV, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 7200})
    made = convert(client, file.id)
    assert 0 <= file.expires_at - made["expires_at"] < 120
    assert made["expires_at"] > datetime.now(UTC).timestamp()


def test_conversion_counts_against_the_size_limit(server: Server, client: OpenAI) -> None:
    rows = jsonl([{"prompt": "a", "completion": "b" * 1_000}]) * (MAX_FILE_BYTES // 1_000)
    file = uploaded(server, client, gzip.compress(rows))
    with pytest.raises(Exception, match="larger than the limit"):
        convert(client, file.id)


def test_conversion_process_has_limits(tmp_path: Any) -> None:
    source = tmp_path / "rows"
    source.write_bytes(json.dumps(CHAT * 5_000).encode())
    with pytest.raises(Unconvertible, match="convert it on your machine"):
        convert_file(source, tmp_path / "out", {}, seconds=0)
    source.write_bytes(ACCENTS)
    convert_file(source, tmp_path / "two", {}, limit=2)
    assert (tmp_path / "two").read_bytes() == b"".join(ACCENTS.splitlines(keepends=True)[:2])
