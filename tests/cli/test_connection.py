"""Commands that cannot reach the server, or have no valid key for it."""

import json
from importlib.metadata import version
from pathlib import Path

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run
from tests.http_server import Reply, http_server


def test_unreachable_or_forbidden_server(grouptune: Run, tmp_path: Path) -> None:
    unreachable = grouptune("jobs", "list", GROUPTUNE_URL="http://127.0.0.1:9")
    assert unreachable.returncode == ExitCode.unreachable
    with http_server(lambda _: Reply(b"<html>", 502)) as proxy:
        assert grouptune("jobs", "list", GROUPTUNE_URL=proxy).returncode == ExitCode.unreachable
    for invalid in ("127.0.0.1:9", "http://[::1"):
        waiting = grouptune("jobs", "wait", "ftjob-1", GROUPTUNE_URL=invalid)
        assert waiting.returncode == ExitCode.unreachable
        assert "is not a valid URL" in waiting.stderr
    nowhere = grouptune("jobs", "list", "--state-dir", tmp_path)
    assert nowhere.returncode == ExitCode.unreachable
    assert f"`grouptune up --state-dir {tmp_path}`" in nowhere.stderr
    keyless = grouptune("jobs", "list", GROUPTUNE_API_KEY=None)
    assert keyless.returncode == ExitCode.auth
    assert "GROUPTUNE_API_KEY" in keyless.stderr
    malformed = grouptune("jobs", "list", GROUPTUNE_API_KEY="gt_live_\u00e9\nx")
    assert malformed.returncode == ExitCode.auth
    assert malformed.stderr.endswith("Copy the key again.\n")
    assert grouptune("jobs", "list", GROUPTUNE_API_KEY="gt_live_wrong").returncode == ExitCode.auth
    assert grouptune("--version").stdout == f"grouptune {version('grouptune')}\n"
    misused = grouptune("jobs", "list", "--limit", "none")
    assert misused.returncode == ExitCode.usage
    assert misused.stderr.isascii(), "box-drawing characters are only for terminals"


def test_errors_of_json_commands_are_json(grouptune: Run, tmp_path: Path) -> None:
    cases = {
        ("jobs", "list", "--limit", "none"): (ExitCode.usage, "invalid_request_error", "usage"),
        ("jobs", "nope"): (ExitCode.usage, "invalid_request_error", "usage"),
        ("files", "report", "file-nope"): (ExitCode.error, "invalid_request_error", "not_found"),
        ("jobs", "list", "--state-dir", tmp_path): (ExitCode.unreachable, "server_error", "server_unreachable"),
    }
    for words, (code, kind, reason) in cases.items():
        done = grouptune(*words, "--json")
        assert (done.returncode, done.stdout) == (code, ""), words
        [line] = done.stderr.splitlines()
        error = json.loads(line)["error"]
        assert (error["type"], error["code"], set(error)) == (kind, reason, {"message", "type", "param", "code"})
        assert error["message"]
    wrong = grouptune("jobs", "list", "--json", GROUPTUNE_API_KEY="gt_live_wrong")
    assert wrong.returncode == ExitCode.auth
    assert json.loads(wrong.stderr)["error"]["code"] == "invalid_api_key"
