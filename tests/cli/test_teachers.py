"""`grouptune teachers` against a running server."""

import json

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_set_list_and_remove_a_key(grouptune: Run, answer_grouptune: Run) -> None:
    key = "sk-canary-0123456789"
    done = grouptune("teachers", "set-key", "http://127.0.0.1:9/v1", stdin=key + "\n")
    assert done.returncode == ExitCode.ok, done.stderr
    assert "...6789 is sent only to http://127.0.0.1:9." in done.stderr
    listed = grouptune("teachers", "list")
    assert "http://127.0.0.1:9" in listed.stdout
    assert key not in listed.stdout + done.stderr
    [stored] = json.loads(grouptune("teachers", "list", "--json").stdout)
    kept = answer_grouptune("teachers", "remove", stored["id"], answer="n")
    assert f"Delete 1 teacher key:\r\n  {stored['id']}  http://127.0.0.1:9\r\nContinue?" in kept.stderr
    assert grouptune("teachers", "remove", stored["id"]).stderr == f"{stored['id']} is deleted.\n"
    assert json.loads(grouptune("teachers", "list", "--json").stdout) == []
    refused = grouptune("teachers", "set-key", "https://10.0.0.1/v1", stdin=key + "\n")
    assert refused.returncode == ExitCode.error
    assert "Only the operator can allow it: GROUPTUNE_ALLOWED_PRIVATE_HOSTS=" in refused.stderr
