"""Previews of rows as a model reads them, and their lengths."""

import io
import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from openai import BadRequestError, OpenAI
from pyarrow import parquet as pq

from app.api.token_lengths import LengthCache, MeasuredFile
from app.core.chat import tokenizer
from app.core.chat.encoding import RowRules
from app.core.files import reading
from app.core.files.validation_report import broken
from tests.answers import answer_ids
from tests.api.server import Server

ROWS: list[dict[str, Any]] = [
    {
        "messages": [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}],
        "teacher_responses": ["four", {"content": "x" * 40, "model": "big"}],
    },
    {"prompt": "only a prompt"},
    {"prompt": "a", "completion": "b"},
]


def uploaded(server: Server, client: OpenAI, content: bytes) -> str:
    file = client.files.create(file=content, purpose="fine-tune")
    server.validate_files()
    assert client.files.retrieve(file.id).status == "processed"
    return file.id


def preview(client: OpenAI, file_id: str, **query: Any) -> Any:
    return client.get(f"/files/{file_id}/preview", cast_to=object, options={"params": query})


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    table, out = (
        pa.Table.from_pylist([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]),
        (io.BytesIO()),
    )
    pq.write_table(table, out)
    return out.getvalue()


def test_preview_shows_tokens_and_loss_mask(server: Server, client: OpenAI) -> None:
    file_id = uploaded(server, client, b"\n" + jsonl(ROWS))
    answer = preview(client, file_id, model="tiny", max_length=63)
    assert (answer["object"], answer["model"], answer["has_more"]) == ("file.preview", "tiny", False)
    assert [row["line"] for row in answer["data"]] == [2, 3, 4]
    chat = tokenizer.load(server.settings.models_dir / "tiny")
    prompt, expert, *teachers = answer["data"][0]["spans"]
    assert tuple(prompt["ids"]) == chat.prompt_ids([{"role": "user", "content": "2+2="}])
    assert "".join(prompt["texts"]) == "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"
    assert set(prompt["mask"]) == {0}
    assert (expert["ids"], expert["texts"], expert["mask"]) == (
        list(answer_ids(chat, "4")),
        ["4", "<|im_end|>"],
        [1, 1],
    )
    assert [(span["source"], span["model"], span["tokens"], span["fits"]) for span in teachers] == [
        ("teacher", None, 5, True),
        ("teacher", "big", 41, False),
    ]
    assert [span["source"] for span in answer["data"][1]["spans"]] == ["prompt"]
    lengths = answer["lengths"]
    assert (lengths["rows"], lengths["measured_rows"], lengths["too_long"]) == (3, 3, 1)
    assert lengths["row"]["max"] == prompt["tokens"] + 41
    assert lengths["longest_too_long"] == [{"line": 2, "tokens": prompt["tokens"] + 41}]
    assert sum(bar["count"] for bar in lengths["response"]["bins"]) == lengths["response"]["count"] == 4


def test_preview_pages_and_samples_large_files(server: Server, client: OpenAI) -> None:
    """Parquet files work too, with row numbers in place of lines."""
    rows = [{"prompt": f"{n}", "completion": "x" * (n % 97)} for n in range(1, 3_001)]
    rows[1_999]["completion"] = "y" * 500
    rows = [row | {"completion": row["completion"] or "z"} for row in rows]
    collected = []
    for content in (jsonl(rows), as_parquet(rows)):
        file_id = uploaded(server, client, content)
        first = preview(client, file_id, limit=2, max_length=200)
        later = preview(client, file_id, limit=3, after=1_234)
        last = preview(client, file_id, after=2_998)
        assert [[row["line"] for row in page["data"]] for page in (first, later, last)] == [
            [1, 2],
            [1_235, 1_236, 1_237],
            [2_999, 3_000],
        ]
        assert (first["has_more"], later["has_more"], last["has_more"]) == (True, True, False)
        assert "".join(later["data"][0]["spans"][0]["texts"]).split("\n")[1] == "1235<|im_end|>"
        assert later["lengths"] is None
        lengths = first["lengths"]
        assert reading.SAMPLED_ROWS // 2 <= lengths["measured_rows"] <= reading.SAMPLED_ROWS
        assert [row["line"] for row in lengths["longest_too_long"]] == [2_000]
        assert abs(lengths["response"]["median"] - 49) <= 4
        collected.append((first["data"], later["data"], lengths))
    assert collected[0] == collected[1]


def test_what_cannot_be_shown_says_why(server: Server, client: OpenAI) -> None:
    waiting = client.files.create(file=jsonl(ROWS), purpose="fine-tune").id
    for query, code in (({}, "file_not_ready"), ({"model": "smollm2-135m-instruct"}, "model_not_pulled")):
        with pytest.raises(BadRequestError) as caught:
            preview(client, waiting, **query)
        assert caught.value.code == code
    broken = client.files.create(file=b"{\n", purpose="fine-tune").id
    other = client.files.create(file=b"{}", purpose="user_data").id
    server.validate_files()
    for file_id in (broken, other):
        with pytest.raises(BadRequestError) as caught:
            preview(client, file_id)
        assert caught.value.code == "invalid_file"
    with pytest.raises(BadRequestError) as caught:
        preview(client, waiting, model="nope")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_report_has_duplicates_and_long_rows(server: Server, client: OpenAI) -> None:
    file_id = uploaded(server, client, jsonl([*ROWS, ROWS[0]]))
    report: Any = client.get(f"/files/{file_id}/report", cast_to=object)
    collected = report["report"]
    assert collected["duplicate_rows"] == 1
    assert collected["warnings"][0]["line"] == 4
    assert collected["longest"][0]["line"] == 1
    assert "places" not in collected


CONVERSATION = {
    "messages": [
        {"role": "user", "content": "0+1="},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "plus 1?"},
        {"role": "assistant", "content": "2", "weight": 0},
        {"role": "user", "content": "plus 1?"},
        {"role": "assistant", "content": "3"},
    ]
}


def test_preview_shows_every_trained_turn(server: Server, client: OpenAI) -> None:
    file_id = uploaded(server, client, jsonl([CONVERSATION]))
    spans = preview(client, file_id, model="tiny", turns="all")["data"][0]["spans"]
    assert [("".join(span["texts"]), set(span["mask"])) for span in spans] == [
        ("<|im_start|>user\n0+1=<|im_end|>\n<|im_start|>assistant\n", {0}),
        ("1<|im_end|>", {1}),
        (
            "\n<|im_start|>user\nplus 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
            "<|im_start|>user\nplus 1?<|im_end|>\n<|im_start|>assistant\n",
            {0},
        ),
        ("3<|im_end|>", {1}),
    ]
    last = preview(client, file_id, model="tiny", turns="last")["data"][0]["spans"]
    assert ["".join(span["texts"]) for span in last] == [
        "".join("".join(span["texts"]) for span in spans[:3]),
        "3<|im_end|>",
    ]


def test_pages_of_long_rows_are_short(server: Server, client: OpenAI) -> None:
    rows = [{"prompt": str(n), "completion": "x " * 60_000} for n in range(2)]
    file_id = uploaded(server, client, jsonl(rows))
    first = preview(client, file_id)
    assert ([row["line"] for row in first["data"]], first["has_more"]) == ([1], True)
    last = preview(client, file_id, after=1)
    assert ([row["line"] for row in last["data"]], last["has_more"]) == ([2], False)


def test_lengths_are_measured_once(server: Server) -> None:
    content = jsonl(ROWS)
    model = server.settings.models_dir / "tiny"
    chat, cache = tokenizer.load(model), LengthCache()
    rules = RowRules(turns="last", max_length=100)
    report = broken(len(content), "").model_copy(update={"rows": len(ROWS)})
    first = cache.lengths(MeasuredFile("file-1", report, model, {}, rules), io.BytesIO(content), chat)
    assert len(first[0]) == len(ROWS)
    shorter = MeasuredFile("file-1", report, model, {}, replace(rules, max_length=20))
    assert cache.lengths(shorter, io.BytesIO(b""), chat) is first
    for other in (replace(shorter, file_id="file-2"), replace(shorter, variables={"a": 1})):
        assert cache.lengths(other, io.BytesIO(b""), chat) == ([], [])
