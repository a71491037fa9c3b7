"""`grouptune teachers` against a running installation."""

import json

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_a_key_is_read_from_standard_input_listed_by_its_end_and_forgotten(grouptune: Run) -> None:
    key = "sk-canary-0123456789"
    done = grouptune("teachers", "set-key", "http://127.0.0.1:9/v1", stdin=key + "\n")
    assert done.returncode == ExitCode.ok, done.stderr
    assert "...6789 goes to http://127.0.0.1:9 alone" in done.stderr
    listed = grouptune("teachers", "list")
    assert "http://127.0.0.1:9" in listed.stdout
    assert key not in listed.stdout + done.stderr
    [kept] = json.loads(grouptune("teachers", "list", "--json").stdout)
    assert grouptune("teachers", "remove", kept["id"]).stderr == f"{kept['id']} is forgotten.\n"
    assert json.loads(grouptune("teachers", "list", "--json").stdout) == []
    refused = grouptune("teachers", "set-key", "https://10.0.0.1/v1", stdin=key + "\n")
    assert refused.returncode == ExitCode.error
    assert "only the operator can allow it" in refused.stderr
