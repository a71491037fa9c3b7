"""`grouptune files upload`, `list`, `report` and `preview` against a running server."""

import json
from pathlib import Path

from app.cli.ui.exits import ExitCode
from tests.api.jobs import broken_at_17
from tests.cli.conftest import Run
from tests.tiny_model import write_rows


def test_upload_list_report_and_preview(grouptune: Run, tmp_path: Path) -> None:
    done = grouptune("files", "upload", write_rows(tmp_path / "rows.jsonl", 4), "--wait")
    assert done.returncode == ExitCode.ok, done.stderr
    file_id = done.stdout.strip()
    again = grouptune("files", "upload", write_rows(tmp_path / "same.jsonl", 4))
    assert (again.stdout.strip(), again.stderr) == (file_id, f"same.jsonl is already uploaded as {file_id}.\n")
    listed = json.loads(grouptune("files", "list", "--json").stdout)
    [file] = [entry for entry in listed if entry["id"] == file_id]
    assert (file["filename"], file["status"]) == ("rows.jsonl", "processed")
    writer = grouptune("keys", "create", "writer", "--scope", "files:write").stdout.strip()
    blind = grouptune("files", "upload", tmp_path / "same.jsonl", GROUPTUNE_API_KEY=writer)
    assert (blind.returncode, blind.stdout.strip() != file_id) == (ExitCode.ok, True), blind.stderr
    report = grouptune("files", "report", file_id)
    assert "4 rows" in report.stderr
    preview = grouptune("files", "preview", file_id, "--model", "tiny", "--limit", 1, "--max-length", 40)
    lines = preview.stdout.splitlines()
    assert lines[0] == (
        'line 1 prompt: 23 tokens, context only: "<|im_start|>user\\n0+0=<|im_end|>\\n<|im_start|>assistant\\n"'
    )
    assert lines[1] == 'line 1 expert: 2 tokens, trained on: "0<|im_end|>"'
    assert [line.split(":")[0] for line in lines[2:]] == ["line 1 teacher 1", "line 1 teacher 2", "line 1 teacher 3"]
    assert "Tokens per row with tiny (all 4 rows): median " in preview.stderr
    assert preview.stderr.endswith("Show more with --after 1\n")


def test_invalid_file_reports_the_line(grouptune: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(broken_at_17())
    done = grouptune("files", "upload", path, "--wait")
    assert done.returncode == ExitCode.error
    assert "line 17" in done.stderr
    report = grouptune("files", "report", done.stdout.strip())
    assert report.returncode == ExitCode.error
    assert "17\terror\t" in report.stdout


def test_file_without_answers_is_a_warning(grouptune: Run, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "1+1=", "response": "2"}\n')
    done = grouptune("files", "upload", path, "--wait")
    assert done.returncode == ExitCode.ok
    assert "Warning: " in done.stderr
    assert "no row has an answer to learn from" in done.stderr
    report = grouptune("files", "report", done.stdout.strip())
    assert "\twarning\tresponse\tno row has an answer to learn from, but `response` looks like one" in report.stdout
