import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from app.core.files import validation
from app.core.files.duplicates import PromptIndex
from app.core.files.validation import validate_file, validate_rows
from app.core.files.validation_report import FileReport
from app.core.spec.json_lines import MAX_LINE_BYTES
from app.core.spec.rows import RowError, read_rows

GOOD = b'{"prompt": "2+2?", "completion": "4"}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.jsonl"


def report(path: Path, content: bytes, max_errors: int = 50) -> FileReport:
    path.write_bytes(content)
    return validate_file(path, max_errors=max_errors)


def test_report_counts_kinds_of_rows(path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b", "teacher_responses": ["x", "y"], "answer": 1},
        {"messages": [{"role": "user", "content": "a"}], "answer": 2},
        {"prompt": "a", "teacher_responses": ["x"]},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    result = report(path, content)
    assert (result.valid, result.rows, result.bytes) == (True, 3, len(content))
    assert (result.expert_rows, result.prompt_only_rows, result.teacher_rows) == (1, 2, 2)
    assert result.teacher_responses.model_dump() == {"min": 0, "max": 2, "total": 3}
    assert result.item_fields == {"prompt": 2, "completion": 1, "answer": 2, "messages": 3}
    assert result.summary() == "3 rows: 1 with a demonstration, 2 with teacher responses, 2 prompt-only"
    assert FileReport.model_validate_json(result.model_dump_json()) == result


def test_errors_have_lines_and_are_all_counted(path: Path) -> None:
    result = report(path, GOOD * 16 + b'{"messages": []}\n' + GOOD + b"{\n" * 5, max_errors=2)
    assert [(error.line, error.param) for error in result.errors] == [(17, "messages"), (19, None)]
    assert (result.valid, result.rows, result.error_count) == (False, 17, 6)
    assert result.summary().startswith("line 17: `messages` must be a non-empty list")
    assert result.summary().endswith("(and 5 more errors)")


def test_byte_order_mark_and_crlf_are_fine(path: Path) -> None:
    assert report(path, b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") * 2).rows == 2
    assert [line for line, _ in read_rows(path)] == [1, 2]


def test_byte_order_mark_elsewhere_is_refused(path: Path) -> None:
    assert report(path, GOOD + b"\xef\xbb\xbf" + GOOD).errors[0].line == 2


def test_last_line_needs_no_newline(path: Path) -> None:
    assert report(path, GOOD + GOOD.rstrip()).rows == 2


def test_blank_lines_between_rows_are_warnings(path: Path) -> None:
    assert report(path, GOOD + b"\n \r\n\n").warning_count == 0
    result = report(path, GOOD + b"\n\n" + GOOD.replace(b"4", b"5") + b"{")
    assert [(warning.line, warning.message.split(";")[0]) for warning in result.warnings] == [(2, "blank line ignored")]
    assert result.errors[0].line == 5


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_file_without_rows_is_refused(path: Path, content: bytes) -> None:
    result = report(path, content)
    assert not result.valid
    assert result.errors[0].line is None
    assert result.summary() == "the file holds no rows; write one JSON object a line"


def test_unused_demonstration_is_a_warning(path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    result = report(path, GOOD + json.dumps({"messages": messages}).encode())
    assert result.valid
    assert (result.warnings[0].line, result.expert_rows, result.prompt_only_rows) == (2, 1, 1)


def test_overlong_line_takes_no_memory(path: Path) -> None:
    with path.open("wb") as stream:
        for _ in range(40):
            stream.write(b"x" * MAX_LINE_BYTES)
        stream.write(b"\n" + GOOD + b"{\n")
    tracemalloc.start()
    result = validate_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [error.line for error in result.errors] == [1, 3]
    assert "more than 1,000,000 bytes" in result.errors[0].message
    assert result.rows == 1
    assert peak < 12_000_000


def test_line_of_maximum_length_is_accepted(path: Path) -> None:
    line = b'{"prompt": "' + b"a" * (MAX_LINE_BYTES - 14) + b'"}'
    assert report(path, line + b"\r\n" + line + b"\n" + line).rows == 3
    assert report(path, b"\xef\xbb\xbf" + line + b"\r\n").rows == 1
    assert report(path, line + b" \n").error_count == 1


def test_row_limit(path: Path) -> None:
    path.write_bytes(GOOD * 3 + b"\n")
    assert validate_file(path, max_rows=3).valid
    path.write_bytes(GOOD * 9)
    result = validate_file(path, max_rows=3)
    assert [(error.line, error.message) for error in result.errors] == [(4, "the file has more than 3 rows; split it")]


def test_file_size_is_checked_before_reading(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(validation.MAX_FILE_BYTES + 1)  # sparse: takes no disk
    result = validate_file(path)
    assert result.summary() == "the file has 2,000,000,001 bytes; the limit is 2,000,000,000, so split it"


def test_item_field_names_are_bounded(path: Path) -> None:
    rows = (json.dumps({"prompt": "a", f"field{n}": 1}) for n in range(1_500))
    assert len(report(path, "\n".join(rows).encode()).item_fields) == validation.MAX_ITEM_FIELDS


def test_progress_ends_at_the_total(path: Path) -> None:
    path.write_bytes(GOOD * 20)
    seen: list[tuple[int, int]] = []
    validate_file(path, progress=lambda done, total: seen.append((done, total)), progress_bytes=100)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == (len(GOOD) * 20, len(GOOD) * 20)


def test_read_rows_numbers_and_first_error(path: Path) -> None:
    path.write_bytes(GOOD + b"\n" + GOOD + b"{}\n")
    rows = read_rows(path)
    assert next(rows)[0] == 1
    assert next(rows)[0] == 3
    with pytest.raises(RowError, match="line 4: the row has neither"):
        next(rows)


def test_duplicates_name_the_first_line(path: Path) -> None:
    """Rows are duplicates if prompt and answers are equal, whichever the notation; another answer makes a new row."""
    long = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    rows = [json.dumps(long), '{"prompt": "2+2?"}', '{"prompt": "2+2?", "completion": "5"}']
    more = '{"prompt": "2+2?", "teacher_responses": ["4"]}'
    content = "\n".join([GOOD.decode().strip(), *rows, more, "", more]).encode()
    result = report(path, content)
    assert (result.valid, result.rows, result.duplicate_rows) == (True, 6, 2)
    repeats = [(warning.line, warning.message) for warning in result.warnings if warning.message.startswith("repeats")]
    assert [line for line, _ in repeats] == [2, 7]
    assert repeats[0][1].startswith("repeats line 1:")
    assert repeats[1][1].startswith("repeats line 5:")
    assert result.summary().endswith(", 2 duplicates")


def test_duplicates_among_many_rows(path: Path) -> None:
    rows = [f'{{"prompt": "{n % 900}", "completion": "a"}}' for n in range(2_000)]
    result = report(path, "\n".join(rows).encode())
    assert (result.duplicate_rows, result.warning_count) == (1_100, 1_100)
    assert [warning.line for warning in result.warnings] == list(range(901, 951))


def test_reported_row_positions_are_correct(path: Path) -> None:
    rows = [f'{{"prompt": "{n}{"x" * (n * 37 % 1_000)}", "completion": "é"}}\n'.encode() for n in range(1_000)]
    content = b"\n".join([b"", *rows])
    result = report(path, content)
    longest = sorted(((len(json.loads(row)["prompt"]) + 1, n) for n, row in enumerate(rows)), key=lambda pair: -pair[0])
    assert [row.characters for row in result.longest] == [size for size, _ in longest[:32]]
    assert 64 <= len(result.places) <= validation.MAX_PLACES
    assert result.places[0].line == 2
    steps = {later.line - earlier.line for earlier, later in pairwise(result.places)}
    assert len(steps) == 1
    assert result.places[-1].line + steps.pop() > 2_000
    for place in (*result.places, *result.longest):
        assert content[place.offset :].startswith(rows[place.line // 2 - 1])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_archives_are_refused_by_name(path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert " archive, not JSONL; convert it" in report(path, pack(GOOD)).summary()


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    """Except for hashes and line numbers: 24 bytes a row."""
    peaks = []
    for count in (1_000, 6_000):
        path.write_bytes(b"".join(b'{"prompt": "%d", "completion": "%s"}\n' % (n, b"x" * 300) for n in range(count)))
        tracemalloc.start()
        assert validate_file(path).rows == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5_000 * 24 * 2


def test_shared_prompts_of_two_files(tmp_path: Path) -> None:
    training, held_out = tmp_path / "training", tmp_path / "held_out"
    training.write_bytes(b"".join(b'{"prompt": "%d"}\n' % (n % 50) for n in range(100)))
    held_out.write_bytes(b'{"prompt": "new"}\n\n{"messages": [{"role": "user", "content": "7"}]}\n{"prompt": "49"}\n')
    indices = [PromptIndex.from_bytes(validate_rows(data).prompts.to_bytes()) for data in (training, held_out)]
    assert indices[1].shared_with(indices[0]) == [(3, 8), (4, 50)]
    assert indices[0].shared_with(indices[1]) == [(8, 3), (50, 4), (58, 3), (100, 4)]
    assert PromptIndex().shared_with(indices[0]) == []
