"""Rows as jobs read them: sent as prompts and given to graders."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.api.routes.test_file_preview import as_parquet, jsonl, uploaded
from tests.api.server import Server

CALL = {"id": "call_a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ROWS: list[dict[str, Any]] = [
    {"prompt": "1+1=", "completion": "2", "teacher_responses": [{"content": "two", "model": "big"}], "level": "easy"},
    {
        "messages": [
            {"role": "developer", "content": "Add."},
            {"role": "user", "content": "1+?"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "3", "tool_call_id": "call_a"},
        ],
        "tools": [TOOL],
    },
    {"prompt": "best?", "chosen": "this", "rejected": "that"},
]


def rows(client: OpenAI, file_id: str, **query: Any) -> Any:
    return client.get(f"/files/{file_id}/rows", cast_to=object, options={"params": query})


def test_rows_are_prompts_and_items(server: Server, client: OpenAI) -> None:
    file_id = uploaded(server, client, b"\n" + jsonl(ROWS))
    first = rows(client, file_id)
    assert (first["rows"], first["has_more"], [row["line"] for row in first["data"]]) == (3, True, [2])
    row = first["data"][0]
    assert row["messages"] == [{"role": "user", "content": "1+1="}]
    assert (row["item"]["level"], row["item"]["completion"], "teacher_responses" in row["item"]) == ("easy", "2", False)
    assert row["answers"] == [
        {"source": "expert", "text": "2", "model": None},
        {"source": "teacher", "text": "two", "model": "big"},
    ]
    rest = rows(client, file_id, after=2, limit=20)
    assert (rest["has_more"], [row["line"] for row in rest["data"]]) == (False, [3, 4])
    called, pair = rest["data"]
    system, _, call, result = called["messages"]
    assert (system["role"], call["tool_calls"], result["tool_call_id"]) == ("system", [CALL], "call_a")
    assert (called["tools"], called["answers"]) == ([TOOL], [])
    assert [(answer["source"], answer["text"]) for answer in pair["answers"]] == [
        ("preferred", "this"),
        ("non_preferred", "that"),
    ]


def test_rows_of_a_parquet_file(server: Server, client: OpenAI) -> None:
    file_id = uploaded(server, client, as_parquet([{"prompt": "a", "completion": "b"}]))
    assert rows(client, file_id)["data"][0]["answers"] == [{"source": "expert", "text": "b", "model": None}]


def test_rows_of_an_invalid_file(server: Server, client: OpenAI) -> None:
    file_id = client.files.create(file=b"no rows", purpose="fine-tune").id
    with pytest.raises(BadRequestError, match="not validated yet"):
        rows(client, file_id)
    server.validate_files()
    with pytest.raises(BadRequestError) as caught:
        rows(client, file_id)
    assert caught.value.code == "invalid_file"
