"""Files that are not chat JSONL get one message, which names the format and the fix."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from app.core.files import formats
from app.core.files.validation import validate_file
from app.core.files.validation_report import FileReport

CHAT: Final = [
    {"messages": [{"role": "user", "content": f"{n}+1="}, {"role": "assistant", "content": str(n + 1)}]}
    for n in range(6)
]
CONVERT: Final = "`grouptune files convert FILE`"


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("rows.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def report(tmp_path: Path, content: bytes) -> FileReport:
    path = tmp_path / "rows"
    path.write_bytes(content)
    return validate_file(path)


def indented(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, indent=2) for row in rows).encode()


ACCENTS: Final = jsonl([{"prompt": "Prix ?", "completion": "Le café coûte 3 €, vraiment"}] * 3)
CSV: Final = b'prompt,completion\n"0+1=","1"\n"1+1=","2"\n'

CONVERTIBLE: Final = {
    "indented": (indented(CHAT), "the file is indented JSON, not JSONL"),
    "array": (json.dumps(CHAT).encode(), "the file is a JSON array, not JSONL"),
    "array of lines": (json.dumps(CHAT).replace("}, {", "},\n{").encode(), "a JSON array"),
    "array in lines": (b"[\n" + b",\n".join(jsonl(CHAT).splitlines()) + b"\n]\n", "a JSON array"),
    "indented array": (json.dumps(CHAT, indent=4).encode(), "a JSON array"),
    "array above a line": (json.dumps(CHAT * 3_000).encode(), "a JSON array"),
    "wrapped": (json.dumps({"data": CHAT}).encode(), "a JSON object with the rows in a list"),
    "commas": (b",\n".join(jsonl(CHAT).splitlines()), "commas between them"),
    "one line": (b" ".join(jsonl(CHAT).splitlines()), "several JSON objects a line"),
    "python": ("\n".join(map(str, CHAT)).encode(), "Python literals (single-quoted"),
    "python list": (str(CHAT).encode(), "Python literals"),
    "csv": (CSV, "the file is CSV with the columns `prompt`, `completion`, not JSONL"),
    "csv of excel": (CSV.decode().encode("utf-8-sig"), "the file is CSV with the columns `prompt`, `completion`, not"),
    "line ends of old macs": (jsonl(CHAT).replace(b"\n", b"\r"), "several JSON objects a line"),
    "tsv": (CSV.replace(b",", b"\t"), "the file is TSV with the columns"),
    "semicolons": (CSV.replace(b",", b";"), "the file is CSV with semicolons with the columns"),
    "utf-16": (jsonl(CHAT).decode().encode("utf-16"), "the file is text in UTF-16, not in UTF-8"),
    "utf-16-le": (jsonl(CHAT).decode().encode("utf-16-le"), "text in UTF-16"),
    "utf-16-be": (jsonl(CHAT).decode().encode("utf-16-be"), "text in UTF-16"),
    "utf-32": (jsonl(CHAT).decode().encode("utf-32"), "text in UTF-32"),
    "cp1252": (ACCENTS.decode().encode("cp1252"), "the file is text in Windows-1252, not in UTF-8"),
    "cp1252 late": (jsonl(CHAT) * 90 + ACCENTS.decode().encode("cp1252"), "text in Windows-1252"),
    "utf-16 csv": (CSV.decode().encode("utf-16"), "CSV with the columns `prompt`, `completion`, in UTF-16, not JSONL"),
    "gzip": (gzip.compress(jsonl(CHAT)), "the file is a gzip archive, not JSONL"),
    "bzip2": (bz2.compress(jsonl(CHAT)), "a bzip2 archive"),
    "xz": (lzma.compress(jsonl(CHAT)), "an xz archive"),
    "zip": (zipped(rows=jsonl(CHAT)), "a zip archive"),
    "gzip csv": (gzip.compress(CSV), "a gzip archive, CSV with the columns"),
}


@pytest.mark.parametrize(("content", "cause"), CONVERTIBLE.values(), ids=CONVERTIBLE)
def test_cause_is_one_error_with_the_fix(tmp_path: Path, content: bytes, cause: str) -> None:
    result = report(tmp_path, content)
    (error,) = result.errors
    assert (result.valid, result.error_count, result.conversion) == (False, 1, {})
    assert error.line is None
    assert cause in error.message
    assert CONVERT in error.message


UNCONVERTIBLE: Final = {
    "xlsx": (zipped(**{"xl/workbook.xml": b"<x/>"}), "an Excel workbook; save the sheet as CSV"),
    "docx": (zipped(**{"word/document.xml": b"<x/>"}), "a Word document"),
    "two files": (zipped(a=b"{}", b=b"{}"), "it holds 2 files: unpack it"),
    "damaged zip": (b"PK\x03\x04 nothing else", "a damaged zip archive; write it again"),
    "damaged gzip": (gzip.compress(jsonl(CHAT))[:40], "a gzip archive that cannot be read"),
    "tar": (tarred(jsonl(CHAT)), "a tar archive; unpack it"),
    "tar.gz": (gzip.compress(tarred(jsonl(CHAT))), "a gzip archive that holds a tar archive"),
    "zstd": (b"\x28\xb5\x2f\xfd rest", "a zstd archive; unpack it"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "arrow": (b"ARROW1\0\0rest", "an Arrow file"),
    "html": (b"<!doctype html>\n<title>Sign in</title>", "HTML or XML"),
    "yaml": (b"- messages:\n  - role: user\n    content: hi\n", "the file is YAML"),
    "text": (b"The harbour opens at six.\nIt closes at nine.\n", "plain text"),
    "columns": (json.dumps({"prompt": {"0": "a"}, "completion": {"0": "b"}}).encode(), "JSON by column"),
    "gbk": (jsonl([{"prompt": "问题", "completion": "答案是十二"}]).decode().encode("gbk"), "an unknown encoding"),
    "cp1251": (jsonl([{"prompt": "Вопрос", "completion": "Ответ"}]).decode().encode("cp1251"), "--encoding NAME"),
}


@pytest.mark.parametrize(("content", "cause"), UNCONVERTIBLE.values(), ids=UNCONVERTIBLE)
def test_file_without_conversion_names_a_fix(tmp_path: Path, content: bytes, cause: str) -> None:
    result = report(tmp_path, content)
    assert (result.valid, result.error_count, result.conversion) == (False, 1, None)
    assert cause in result.errors[0].message


SHAPES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "sharegpt": ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "ShareGPT's"),
    "alpaca": ({"instruction": "a", "input": "", "output": "b"}, "Alpaca's `instruction` and `output`"),
    "question": ({"question": "a", "answer": "b"}, "`question` and `answer` in place of `prompt` and `completion`"),
    "number": ({"prompt": "a", "completion": 3}, "a number as `completion` in place of text"),
    "role": (
        {"messages": [{"role": "Human", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "the role `Human` in place of `user`",
    ),
    "chatml": ({"text": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"}, "in ChatML"),
    "gemini": (
        {"contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}]},
        "Gemini's `contents`",
    ),
}


@pytest.mark.parametrize(("row", "cause"), SHAPES.values(), ids=SHAPES)
def test_rows_of_other_tools_are_named_once(tmp_path: Path, row: dict[str, Any], cause: str) -> None:
    for count in (1, 40, 400):
        result = report(tmp_path, jsonl([row] * count))
        assert (result.error_count, result.conversion) == (1, {})
        assert result.errors[0].message.startswith("the rows have ")
        assert cause in result.errors[0].message
        assert CONVERT in result.errors[0].message


def test_unknown_fields_are_named_once(tmp_path: Path) -> None:
    result = report(tmp_path, jsonl([{"überschrift": "a", "summary": "b"}] * 7))
    assert (result.error_count, result.conversion) == (1, {})
    assert "`überschrift`, `summary`, and neither `messages` nor `prompt`; map them" in result.summary()
    result = report(tmp_path, jsonl([{"text": "It rained."}] * 7))
    assert (result.error_count, result.conversion) == (1, None)
    assert "only `text`, without a division" in result.summary()


def test_broken_lines_of_a_good_file_keep_their_numbers(tmp_path: Path) -> None:
    good = jsonl(CHAT).splitlines()
    for broken in (b"{'prompt': 'a'}", b"prompt,completion", b"[1, 2]", b"{", b"not, json", b"{\xff\xfe", b"<p>"):
        for at in (0, 3, 6):
            lines = [*good[:at], broken, *good[at:]]
            result = report(tmp_path, b"\n".join(lines))
            assert [(error.line, result.rows) for error in result.errors] == [(at + 1, 6)], broken


def test_archive_of_terabytes_is_not_unpacked(tmp_path: Path) -> None:
    rows = jsonl(CHAT)
    late = rows * (formats.SCANNED_BYTES // len(rows) + 1) + b'{"prompt": "\xff"}'
    assert "is a gzip archive, not JSONL;" in report(tmp_path, gzip.compress(late, 1)).summary()


def test_one_line_in_another_encoding(tmp_path: Path) -> None:
    """A file that is UTF-8 elsewhere is not in another encoding as a whole."""
    result = report(tmp_path, ACCENTS + ACCENTS.decode().encode("cp1252").splitlines()[0])
    assert [error.line for error in result.errors] == [4]
    assert "is not UTF-8" in result.errors[0].message


def test_rows_of_other_tools_among_good_rows(tmp_path: Path) -> None:
    row = {"instruction": "a", "input": "", "output": "b"}
    result = report(tmp_path, jsonl([*CHAT, row]))
    assert (result.errors[0].line, result.conversion) == (7, {})
    assert result.errors[0].message.startswith("the row has Alpaca's `instruction`")


@pytest.mark.parametrize("field", ["response", "output", "answer", "chosen"])
def test_unused_answers_are_a_warning(tmp_path: Path, field: str) -> None:
    result = report(tmp_path, jsonl([{"prompt": str(n), field: "b"} for n in range(4)]))
    (warning,) = result.warnings
    assert (result.valid, result.conversion) == (True, {"completion": field})
    assert (warning.line, warning.param) == (None, field)
    assert "no row has an answer to learn from" in warning.message
    assert f"--map completion={field}`" in warning.message


def test_answers_of_other_kinds_need_no_warning(tmp_path: Path) -> None:
    for row in (
        {"prompt": "a", "completion": "b", "answer": "c"},
        {"prompt": "a", "teacher_responses": ["b"], "answer": "c"},
        {"prompt": "a", "reference_answer": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ):
        result = report(tmp_path, jsonl([row]))
        assert (result.valid, result.warning_count, result.conversion) == (True, 0, None)


def test_system_text_outside_the_messages_is_a_warning(tmp_path: Path) -> None:
    result = report(tmp_path, jsonl([{"system": "Be brief.", **row} for row in CHAT]))
    assert (result.valid, result.conversion) == (True, {"system": "system"})
    assert "`system` is not part of the prompt" in result.warnings[0].message
