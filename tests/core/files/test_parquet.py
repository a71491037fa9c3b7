"""Parquet files give the same rows as JSONL files; files that cannot be rows are refused."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from app.core.files.parquet import UnreadableParquet, is_parquet, to_jsonl
from app.core.files.validation import validate_file
from app.core.spec.rows import read_rows

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief. \u2028 é 😀"},
            {"role": "user", "content": "2+2?", "name": "ann"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
            {"role": "assistant", "content": "4", "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "teacher_responses": [{"content": "four", "model": "big"}, {"content": "IV"}],
        "reference_answer": {"value": 4, "accepted": [4.0, 4.5]},
    },
    {"messages": [{"role": "user", "content": "3+3?"}], "level": 2},
    {"prompt": "1+1?", "completion": "2", "level": 1},
]


def converted(source: Path, **limits: int) -> Path:
    target = source.with_suffix(".jsonl")
    target.unlink(missing_ok=True)
    to_jsonl(source, target, lambda *_: None, **limits)
    return target


def refusal(source: Path, **limits: int) -> str:
    with pytest.raises(UnreadableParquet) as caught:
        converted(source, **limits)
    return str(caught.value)


def test_parquet_rows_equal_jsonl_rows(tmp_path: Path) -> None:
    source, lines = tmp_path / "rows.parquet", tmp_path / "expected.jsonl"
    pq.write_table(
        pa.Table.from_pylist(
            ROWS,
            schema=pa.Table.from_pylist(ROWS[:1])
            .schema.append(pa.field("prompt", pa.string()))
            .append(pa.field("completion", pa.large_string()))
            .append(pa.field("level", pa.int8())),
        ),
        source,
        row_group_size=2,
    )
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert is_parquet(source)
    assert not is_parquet(lines)
    target = converted(source)
    assert validate_file(target).errors == ()
    assert list(read_rows(target)) == list(read_rows(lines))


def test_encoded_columns_maps_and_missing_values(tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "prompt": pa.array(["a", "b", "a"]).dictionary_encode(),
            "extra": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
            "score": pa.array([0.5, float("nan"), None]),
            "nothing": pa.nulls(3),
        }
    )
    pq.write_table(table, source)
    report = validate_file(converted(source))
    assert [(error.line, error.message.split(";")[0]) for error in report.errors] == [(2, "NaN is not a JSON number")]
    assert report.item_fields == {"prompt": 2, "messages": 2, "extra": 2, "score": 1}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]),
        pa.array([b"a"]),
        pa.array([[{"at": datetime.date(2026, 1, 1)}]]),
        pa.array([[(1, "a")]], pa.map_(pa.int64(), pa.string())),
    ],
    ids=["timestamp", "binary", "nested date", "map of numbers"],
)
def test_unsupported_column_type_is_named(tmp_path: Path, column: Any) -> None:
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "odd one": column}), source)
    assert refusal(source).startswith("the column 'odd one' has the type")


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    whole, source = tmp_path / "whole.parquet", tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a" * 100] * 100}), whole)
    content = whole.read_bytes()
    for broken in (b"PAR1", content[:-20], content[:200] + b"\0" * 200 + content[400:], content[:4] + content[-400:]):
        source.write_bytes(broken)
        assert "write it again" in refusal(source)


def test_unpacked_size_is_limited(tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["x" * 10_000] * 700}), source)  # a single value in the file, 7 MB as rows
    assert "unpacks to more than 20 times" in refusal(source, min_unpacked_bytes=1_000_000)
    pq.write_table(pa.table({"prompt": ["x" * 2_000_000]}), source, compression="zstd")
    assert "unpacks to more than 20 times" in refusal(source, min_unpacked_bytes=1_000_000)
    pq.write_table(pa.table({f"c{n}": [1] for n in range(1_001)}), source)
    assert "1,001 columns" in refusal(source)
    pq.write_table(pa.table({"prompt": ["a"] * 4}), source)
    assert "the file has 4 rows; the limit is 3" in refusal(source, max_rows=3)
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(twice, source)
    assert "two columns are named 'prompt'" in refusal(source)
