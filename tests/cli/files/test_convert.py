"""`grouptune files convert`, mostly without a server."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run

CSV = b'question,answer,level\n"1+1=","2",easy\n"2+1=","3",easy\n'
FULL = [{"prompt": f"{n}+1=", "completion": str(n + 1), "level": "easy"} for n in (1, 2)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_convert_writes_the_rows(grouptune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "quiz.csv.gz"
    source.write_bytes(gzip.compress(CSV))
    target = tmp_path / "rows.jsonl"
    done = grouptune("files", "convert", source, target)
    assert (done.returncode, done.stdout) == (ExitCode.ok, f"{target}\n")
    assert "2 rows: 2 with a demonstration" in done.stderr
    assert rows(target) == FULL
    again = grouptune("files", "convert", source, target)
    assert again.returncode == ExitCode.error
    assert "exists already. Name another file." in again.stderr


def test_convert_maps_columns(grouptune: Run, tmp_path: Path) -> None:
    source = tmp_path / "quiz.csv"
    source.write_bytes(CSV)
    mapping = ("--map", "prompt=question", "--map", "reference_answer=answer")
    done = grouptune("files", "convert", source, tmp_path / "rl.jsonl", *mapping, "--json")
    assert done.returncode == ExitCode.ok
    answer = json.loads(done.stdout)
    assert (answer["path"], answer["report"]["prompt_only_rows"]) == (str(tmp_path / "rl.jsonl"), 2)
    assert answer["summary"].endswith("2 prompt-only; no row has an answer to learn from")
    assert rows(tmp_path / "rl.jsonl")[0] == {"prompt": "1+1=", "reference_answer": "2", "level": "easy"}
    for wrong in ("question", "prompt=", "=question"):
        assert grouptune("files", "convert", source, tmp_path / "x", "--map", wrong).returncode == ExitCode.usage
    done = grouptune("files", "convert", source, tmp_path / "x", "--map", "prompt=query")
    assert "no row has the field `query`; the fields of row 1 are `question`, `answer`, `level`" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quiz.csv", "rl.jsonl"]


def test_convert_names_what_it_cannot_read(grouptune: Run, tmp_path: Path) -> None:
    source = tmp_path / "notes"
    source.write_bytes(b"The harbour opens at six.\nIt closes at nine.\n")
    done = grouptune("files", "convert", source, tmp_path / "rows.jsonl")
    assert (done.returncode, done.stdout) == (ExitCode.error, "")
    assert f"{source}: the file is plain text; write each row as a JSON object on one line." in done.stderr
    done = grouptune("files", "convert", source, tmp_path / "rows.jsonl", "--encoding", "latin-99")
    assert done.returncode == ExitCode.usage


def test_convert_lists_rows_that_stay_invalid(grouptune: Run, tmp_path: Path) -> None:
    source = tmp_path / "chat.json"
    source.write_text(json.dumps([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}]))
    done = grouptune("files", "convert", source, tmp_path / "rows.jsonl")
    assert done.returncode == ExitCode.error
    assert "2\terror\tcompletion\t`completion` is empty" in done.stdout


def test_convert_uploads(grouptune: Run, tmp_path: Path) -> None:
    source = tmp_path / "quiz.csv"
    source.write_bytes(CSV)
    done = grouptune("files", "convert", source, "--upload", "--json")
    assert done.returncode == ExitCode.ok, done.stderr
    file = json.loads(done.stdout)
    assert (file["object"], file["filename"]) == ("file", "quiz.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quiz.csv"]
