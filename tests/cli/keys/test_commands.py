"""`grouptune keys` against a running server."""

import json
from typing import Any

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def keys(grouptune: Run, *words: str) -> dict[str, Any]:
    return {key["id"]: key for key in json.loads(grouptune("keys", "list", *words, "--json").stdout)}


def test_created_key_has_its_scopes(grouptune: Run) -> None:
    done = grouptune("keys", "create", "ci", "--scope", "files:read", "--scope", "jobs:*", "--expires", "90d")
    assert done.returncode == ExitCode.ok, done.stderr
    text = done.stdout.strip()
    key_id = text.split("_")[2]
    assert f"{key_id} (ci)" in done.stderr
    assert "files:read" in done.stderr
    key = keys(grouptune)[key_id]
    assert (key["status"], key["scopes"]) == ("active", ["jobs:*", "files:read"])
    assert key["expires_at"] - key["created_at"] == 90 * 86_400
    assert text not in grouptune("keys", "list").stdout
    assert grouptune("jobs", "list", GROUPTUNE_API_KEY=text).returncode == ExitCode.ok
    refused = grouptune("models", "list", GROUPTUNE_API_KEY=text)
    assert refused.returncode == ExitCode.auth
    assert "models:read" in refused.stderr
    assert grouptune("keys", "list", GROUPTUNE_API_KEY=text).returncode == ExitCode.auth


def test_rotate_and_revoke(grouptune: Run, answer_grouptune: Run) -> None:
    old = json.loads(grouptune("keys", "create", "laptop", "--json").stdout)
    done = grouptune("keys", "rotate", old["id"], "--grace", "0s")
    assert done.returncode == ExitCode.ok, done.stderr
    text = done.stdout.strip()
    new_id = text.split("_")[2]
    assert grouptune("files", "list", GROUPTUNE_API_KEY=text).returncode == ExitCode.ok
    ended = grouptune("files", "list", GROUPTUNE_API_KEY=old["key"])
    assert ended.returncode == ExitCode.auth
    assert "expired" in ended.stderr
    revoked = answer_grouptune("keys", "revoke", new_id, answer="y")
    assert f"Revoke 1 API key:\r\n  {new_id}  laptop\r\nContinue?" in revoked.stderr
    assert revoked.stderr.endswith(f"{new_id} is revoked.\r\n")
    assert grouptune("files", "list", GROUPTUNE_API_KEY=text).returncode == ExitCode.auth
    assert not {old["id"], new_id} & keys(grouptune).keys()
    ended_keys = keys(grouptune, "--all")
    assert [ended_keys[key_id]["status"] for key_id in (old["id"], new_id)] == ["expired", "revoked"]


def test_invalid_requests(grouptune: Run) -> None:
    wrong = grouptune("keys", "create", "x", "--scope", "files:eat")
    assert (wrong.returncode, wrong.stdout) == (ExitCode.error, "")
    assert "use one or more of files:*" in wrong.stderr
    assert "(scopes)" in wrong.stderr
    unknown = grouptune("keys", "revoke", "unknown1")
    assert unknown.returncode == ExitCode.error
    assert "no API key 'unknown1'" in unknown.stderr
    assert grouptune("keys", "create", "x", "--expires", "soon").returncode == ExitCode.usage
