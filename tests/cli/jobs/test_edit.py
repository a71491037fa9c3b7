"""`grouptune jobs edit`: names, notes and tags of jobs."""

import json

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_edit_a_finished_job(grouptune: Run, succeeded_job: str) -> None:
    part = succeeded_job[-8:]
    done = grouptune(
        *("jobs", "edit", part, "--name", f"best {part}", "--note", "two words"),
        *("--tag", "sums", "--tag", "keep", "--set", "team=a=b", "--json"),
    )
    assert done.returncode == ExitCode.ok, done.stderr
    expected = {"name": f"best {part}", "note": "two words", "tags": "sums, keep", "team": "a=b"}
    assert json.loads(done.stdout)["metadata"] == expected
    assert grouptune("jobs", "edit", part, "--tag", "sums", "--unset", "team").stdout == f"{succeeded_job}\n"
    shown = dict(line.split("\t") for line in grouptune("jobs", "show", part).stdout.splitlines())
    assert (shown["name"], shown["note"], shown["tags"]) == (f"best {part}", "two words", "sums")
    assert "team" not in shown
    [_, row] = grouptune("jobs", "list", "--search", f"best {part}").stdout.splitlines()
    assert row.split("\t")[:2] == [succeeded_job, f"best {part}"]
    late = grouptune("jobs", "edit", part, "--nodes", 1, "--gpus", 1)
    assert "it is too late to change it" in late.stderr
    for words, code in (((), ExitCode.error), (("--set", "x"), ExitCode.usage), (("--priority", 1), ExitCode.error)):
        assert grouptune("jobs", "edit", part, *words).returncode == code
    assert grouptune("jobs", "edit", part, *("--unset", "name", "--unset", "note", "--unset", "tags")).returncode == 0
