"""Conversion of other formats to rows; every converted row is valid."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.files.archives import Unconvertible
from app.core.files.convert import rows
from app.core.files.parquet import MIN_UNPACKED_BYTES
from app.core.files.validation import validate_file
from app.core.spec.rows import parse_row
from tests.core.files.test_formats import ACCENTS, CHAT, CONVERTIBLE, jsonl
from tests.properties import examples

TABLE: Final = [{"prompt": "0+1=", "completion": "1"}, {"prompt": "1+1=", "completion": "2"}]
PRICE: Final = [json.loads(line) for line in ACCENTS.splitlines()]
EXPECTED: Final = {
    **dict.fromkeys(("csv", "csv of excel", "tsv", "semicolons", "utf-16 csv", "gzip csv"), TABLE),
    "cp1252": PRICE,
    "cp1252 late": CHAT * 90 + PRICE,
    "array above a line": CHAT * 3_000,
}


def converted(tmp_path: Path, content: bytes, **options: Any) -> list[dict[str, Any]]:
    path = tmp_path / "rows"
    path.write_bytes(content)
    return list(rows(path, **options))


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_each_format_becomes_the_same_rows(tmp_path: Path, name: str) -> None:
    assert converted(tmp_path, CONVERTIBLE[name][0]) == EXPECTED.get(name, CHAT)


def test_valid_rows_stay_as_they_are(tmp_path: Path) -> None:
    written: list[dict[str, Any]] = [
        *CHAT,
        {"prompt": "a", "answer": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    assert converted(tmp_path, gzip.compress(jsonl(written))) == written


USER: Final = {"role": "user", "content": "a"}
ANSWER: Final = {"role": "assistant", "content": "b"}
SYSTEM: Final = {"role": "system", "content": "s"}
CALL: Final = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "tide", "arguments": '{"at": "Oban"}'}}],
}
HUMAN: Final = {"from": "human", "value": "a"}
GPT: Final = {"from": "gpt", "value": "b"}
CHATML: Final = "<|im_start|>{}\n{}<|im_end|>\n"

SHAPES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "sharegpt": ({"conversations": [HUMAN, GPT], "id": 1}, {"messages": [USER, ANSWER], "id": 1}),
    "sharegpt system": (
        {"system": "s", "conversations": [HUMAN, GPT]},
        {"messages": [SYSTEM, USER, ANSWER]},
    ),
    "sharegpt json": ({"conversations": json.dumps([HUMAN, GPT])}, {"messages": [USER, ANSWER]}),
    "conversation of messages": ({"conversation": [USER, ANSWER]}, {"messages": [USER, ANSWER]}),
    "sharegpt tools": (
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": '{"name": "tide", "arguments": {"at": "Oban"}}'},
                {"from": "observation", "value": "06:12"},
                GPT,
            ],
            "tools": '[{"type": "function", "function": {"name": "tide"}}]',
        },
        {
            "messages": [USER, CALL, {"role": "tool", "content": "06:12"}, ANSWER],
            "tools": [{"type": "function", "function": {"name": "tide"}}],
        },
    ),
    "sharegpt in messages": ({"messages": [HUMAN, GPT]}, {"messages": [USER, ANSWER]}),
    "alpaca": ({"instruction": "a", "input": "", "output": "b"}, {"prompt": "a", "completion": "b"}),
    "alpaca input": (
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"prompt": "Add.\n\n1, 2", "completion": "3"},
    ),
    "alpaca history": (
        {"instruction": "a", "input": "", "output": "b", "system": "s", "history": [["x", "y"]]},
        {
            "messages": [
                SYSTEM,
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "y"},
                USER,
                ANSWER,
            ]
        },
    ),
    "question": ({"question": "a", "answer": "b", "level": 2}, {"prompt": "a", "completion": "b", "level": 2}),
    "input and output": ({"input": "a", "output": "b"}, {"prompt": "a", "completion": "b"}),
    "label": ({"text": "a", "label": 1}, {"prompt": "a", "completion": "1"}),
    "system and columns": ({"system": "s", "question": "a", "answer": "b"}, {"messages": [SYSTEM, USER, ANSWER]}),
    "ideal": ({"input": [SYSTEM, USER], "ideal": "b"}, {"messages": [SYSTEM, USER, ANSWER]}),
    "numbers": ({"prompt": 3, "completion": 0.5}, {"prompt": "3", "completion": "0.5"}),
    "number as content": (
        {"messages": [USER, {"role": "assistant", "content": 1}]},
        {"messages": [USER, {"role": "assistant", "content": "1"}]},
    ),
    "roles": (
        {"messages": [{"role": "User", "content": "a"}, {"role": "Assistant", "content": "b"}]},
        {"messages": [USER, ANSWER]},
    ),
    "messages as text": ({"messages": str([USER, ANSWER])}, {"messages": [USER, ANSWER]}),
    "gemini": (
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}],
        },
        {"messages": [SYSTEM, USER, ANSWER]},
    ),
    "chatml": (
        {"text": CHATML.format("system", "s") + CHATML.format("user", "a") + CHATML.format("assistant", "b")},
        {"messages": [SYSTEM, USER, ANSWER]},
    ),
    "llama": (
        {"text": "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST] b </s><s>[INST] a [/INST] b</s>"},
        {"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]},
    ),
    "headings": (
        {"text": "s\n\n### Instruction:\na\n\n### Input:\n12\n\n### Response:\nb"},
        {"messages": [SYSTEM, {"role": "user", "content": "a\n\n12"}, ANSWER]},
    ),
    "guanaco": ({"text": "### Human: a### Assistant: b"}, {"messages": [USER, ANSWER]}),
    "unknown": ({"text": "It rained ### a lot."}, {"text": "It rained ### a lot."}),
}


@pytest.mark.parametrize(("written", "expected"), SHAPES.values(), ids=SHAPES)
def test_rows_of_other_tools(tmp_path: Path, written: dict[str, Any], expected: dict[str, Any]) -> None:
    # The second row: the first one must be convertible, so that unknown fields are an error at once.
    assert converted(tmp_path, jsonl([CHAT[0], written])) == [CHAT[0], expected]
    if written != expected:
        parse_row(json.dumps(expected), 1)


def test_preference_rows_keep_their_two_answers(tmp_path: Path) -> None:
    row = {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "c"}}
    rejected = [{"role": "assistant", "content": "c"}]
    assert converted(tmp_path, jsonl([row])) == [{"prompt": [USER], "chosen": [ANSWER], "rejected": rejected}]


def test_mapped_columns_are_the_only_ones(tmp_path: Path) -> None:
    row = {"question": "a", "answer": "b", "reply": "c"}
    content = jsonl([row])
    with pytest.raises(Unconvertible, match="`question`, `answer`, `reply`; none of them is known to hold the prompt"):
        converted(tmp_path, content)
    assert converted(tmp_path, content, columns={"prompt": "question"}) == [
        {"prompt": "a", "answer": "b", "reply": "c"},
    ]
    columns = {"prompt": "question", "completion": "reply", "reference_answer": "answer"}
    assert converted(tmp_path, content, columns=columns) == [
        {"prompt": "a", "completion": "c", "reference_answer": "b"}
    ]


def test_mapped_answer_ends_the_messages(tmp_path: Path) -> None:
    row = {"system": "s", "messages": [USER], "response": "b", "id": 1}
    columns = {"completion": "response", "system": "system"}
    assert converted(tmp_path, jsonl([row]), columns=columns) == [{"messages": [SYSTEM, USER, ANSWER], "id": 1}]


def test_mapping_of_an_absent_column(tmp_path: Path) -> None:
    with pytest.raises(
        Unconvertible, match="no row has the field `respons`; the fields of row 1 are `prompt`, `response`"
    ):
        converted(tmp_path, jsonl([{"prompt": "a", "response": "b"}]), columns={"completion": "respons"})


def test_what_validation_says_is_what_conversion_does(tmp_path: Path) -> None:
    """The mapping in a report makes every row usable."""
    path = tmp_path / "rows"
    path.write_bytes(jsonl([{"prompt": str(n), "response": "b", "system": "s"} for n in range(5)]))
    report = validate_file(path)
    assert report.conversion == {"completion": "response", "system": "system"}
    path.write_bytes(jsonl(list(rows(path, report.conversion))))
    report = validate_file(path)
    assert (report.valid, report.expert_rows, report.warning_count) == (True, 5, 0)


BROKEN: Final = {
    "array": (b'[{"prompt": "a", "completion": "b"}, {"prompt": "a" 1}]', "row 2: invalid JSON: a comma or a closing"),
    "endless array": (b'[{"prompt": "a", "completion": "b"}', "row 2: invalid JSON: the list has no end"),
    "indented": (b'{\n"prompt": "a",\n"completion": "b"\n}\n{\n"prompt": nothing\n}', "row 2: invalid JSON"),
    "line": (gzip.compress(jsonl(CHAT) + b'{"prompt": }\n'), "line 7: invalid JSON"),
    "key twice": (gzip.compress(b'{"prompt": "a", "prompt": "b"}'), "line 1: the key 'prompt' appears twice"),
    "nan": (b'[{"prompt": "a", "completion": "b"}, {"prompt": "a", "x": NaN}]', "row 2: NaN is not a JSON number"),
    "no object": (b'[{"prompt": "a", "completion": "b"}, 7]', "row 2 is not an object"),
    "cells": (b"prompt,completion\na,b\nc,d\n" * 9 + b"e,f,g\n", "line 28 has 3 cells, and the header has 2"),
    "python": (b"{'prompt': 'a'}\n{'prompt': open('x')}\n", "line 2 is neither JSON nor a Python literal"),
    "set": (b"{'prompt': 'a', 'completion': 'b'}\n{'prompt': 'a', 'x': {1}}\n", "row 2 has a value that JSON lacks"),
    "quote": (
        b"prompt,completion\n" + b"a,b\n" * 19_998 + b'"c,d\n',
        "line 20000 of the table cannot be read: a quote is not closed",
    ),
    "bits": (
        gzip.compress(bytes(range(256)) * 9)[:20] + bytes(99),
        "a gzip archive that cannot be read: its content is",
    ),
    "nested": (b"[" + b'{"a": ' * 100_000, "row 1: invalid JSON"),
    "excel": (b"PK\x03\x04", "a damaged zip archive"),
    "nothing": (gzip.compress(b"\n\n"), "the file holds no rows"),
    "text": (b"The harbour opens at six.", "plain text"),
}


@pytest.mark.parametrize(("content", "problem"), BROKEN.values(), ids=BROKEN)
def test_conversion_stops_at_what_it_cannot_read(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(Unconvertible, match=problem):
        converted(tmp_path, content)


def test_named_encoding(tmp_path: Path) -> None:
    row = {"prompt": "问题", "completion": "答案是十二"}
    content = jsonl([row]).decode().encode("gbk")
    with pytest.raises(Unconvertible, match="an unknown encoding; name the encoding with --encoding"):
        converted(tmp_path, content)
    assert converted(tmp_path, content, encoding="gbk") == [row]
    with pytest.raises(Unconvertible, match="the file is not ascii: it has the byte 0xce"):
        converted(tmp_path, content, encoding="ascii")


def test_cells_keep_line_breaks_and_lists(tmp_path: Path) -> None:
    cells = json.dumps(CHAT[0]["messages"]).replace('"', '""')
    content = f'messages,note\r\n"{cells}","two\r\nlines, quoted ""here"""\r\n'.encode()
    assert converted(tmp_path, content * 1) == [CHAT[0] | {"note": 'two\r\nlines, quoted "here"'}]


def test_archive_cannot_fill_the_disk(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "a", "completion": "b" * 500_000}).encode() + b"\n"
    with pytest.raises(Unconvertible, match="unpacks to more than 20 times its size"):
        converted(tmp_path, gzip.compress(row * (MIN_UNPACKED_BYTES // len(row) + 2), 1))


def test_large_array_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    row = json.dumps({"prompt": "a", "completion": "b" * 2_000}, indent=2)
    path.write_text("[" + ",\n".join([row] * 10_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 6_000_000


TEXT: Final = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text.strip() != ""
)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=5), st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_any_text_survives(tmp_path: Path, pairs: list[tuple[str, str]], codec: str) -> None:
    written = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    for content in (
        json.dumps(written, ensure_ascii=False, indent=1),
        "\n".join(map(str, written)),
        "\n\n".join(json.dumps(row, ensure_ascii=False, indent="\t") for row in written),
    ):
        assert converted(tmp_path, gzip.compress(content.encode(codec))) == written
