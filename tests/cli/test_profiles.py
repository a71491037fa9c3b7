"""`grouptune login`, `logout` and `profiles`."""

import json
from pathlib import Path
from typing import Any

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_log_in_switch_and_log_out(grouptune: Run, stack: Any, tmp_path: Path) -> None:
    own = {"GROUPTUNE_URL": None, "GROUPTUNE_API_KEY": None, "XDG_CONFIG_HOME": str(tmp_path)}
    url, stored = stack.base_url.removesuffix("/v1"), tmp_path / "grouptune" / "profiles.json"
    wrong = grouptune("login", url, stdin="gt_live_wrong\n", **own)
    assert wrong.returncode == ExitCode.auth
    for command in (("login", url), ("teachers", "set-key", url)):
        absent = grouptune(*command, stdin="\n")
        assert (absent.returncode, "No API key. Pipe it" in absent.stderr) == (ExitCode.auth, True), absent.stderr
    assert grouptune("login", url, stdin="two words\n", **own).returncode == ExitCode.auth
    assert not stored.exists()
    done = grouptune("login", url, stdin=f"{stack.api_key}\n", **own)
    assert done.returncode == ExitCode.ok, done.stderr
    assert f"Logged in to {stack.base_url} as profile 'default'." in done.stderr
    assert stored.stat().st_mode & 0o777 == 0o600
    assert grouptune("jobs", "list", **own).returncode == ExitCode.ok

    limited = json.loads(grouptune("keys", "create", "reader", "--scope", "files:read", "--json", **own).stdout)["key"]
    assert grouptune("login", url, "--profile", "reader", stdin=f"{limited}\n", **own).returncode == ExitCode.ok
    assert grouptune("jobs", "list", **own).returncode == ExitCode.auth, "the new profile is in use"
    assert grouptune("jobs", "list", **own, GROUPTUNE_PROFILE="default").returncode == ExitCode.ok
    listed = grouptune("profiles", "list", **own)
    assert limited not in listed.stdout
    assert [line.split("\t")[:2] for line in listed.stdout.splitlines()] == [
        ["NAME", "IN USE"],
        ["default", ""],
        ["reader", "*"],
    ]
    assert grouptune("profiles", "use", "default", **own).stdout == f"{stack.base_url}\n"
    unknown = grouptune("profiles", "use", "nope", **own)
    assert unknown.returncode == ExitCode.error
    assert "There is no profile 'nope'. Profiles: default, reader." in unknown.stderr

    for name in ((), ("reader",)):
        assert grouptune("logout", *name, **own).returncode == ExitCode.ok
    assert stack.api_key not in stored.read_text()
    assert grouptune("logout", **own).returncode == ExitCode.error
    stored.write_text("{")
    damaged = grouptune("jobs", "list", **own)
    assert damaged.returncode == ExitCode.auth
    assert "is damaged" in damaged.stderr
