"""`grouptune jobs list`, and jobs that are named by a part of their id."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_list_shows_name_method_and_results(grouptune: Run, succeeded_job: str, job_file: Callable[..., Path]) -> None:
    path = job_file()
    name = f"named-{path.parent.name}"[:64].replace("_", "-")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"suffix": name}))
    created = grouptune("jobs", "create", "-f", path)
    assert created.returncode == ExitCode.ok, created.stderr
    grouptune("jobs", "cancel", created.stdout.strip())
    table = grouptune("jobs", "list", "--search", name).stdout.splitlines()
    assert table[0].split("\t") == ["ID", "NAME", "STATUS", "STEP", "REWARD", "LOSS", "METHOD", "AGE", "MODEL"]
    [row] = [line.split("\t") for line in table[1:]]
    assert (row[0], row[1], row[6], row[8]) == (created.stdout.strip(), name, "gft", "tiny")

    listed = json.loads(grouptune("jobs", "list", "--status", "succeeded", "--sort", "reward", "--json").stdout)
    assert succeeded_job in {job["id"] for job in listed}
    rewards = [job["progress"]["metrics"].get("reward", float("-inf")) for job in listed]
    assert rewards == sorted(rewards, reverse=True)
    assert {job["status"] for job in listed} == {"succeeded"}
    ages = [job["created_at"] for job in json.loads(grouptune("jobs", "list", "--reverse", "--json").stdout)]
    assert ages == sorted(ages)


def test_parts_of_ids_name_jobs(grouptune: Run, long_job: Callable[[], str]) -> None:
    first, second = long_job(), long_job()
    assert json.loads(grouptune("jobs", "show", "@latest", "--json").stdout)["id"] == second
    for name in (first[-8:], first[6:14], first[:14], first):
        assert json.loads(grouptune("jobs", "show", name, "--json").stdout)["id"] == first, name
    ambiguous = grouptune("jobs", "show", "ftjob-", "--json")
    assert ambiguous.returncode == ExitCode.error
    error = json.loads(ambiguous.stderr)["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "job", "ambiguous_job")
    assert second in error["message"]
    for unknown in ("0" * 12, "no such job", "%"):
        refused = grouptune("jobs", "events", unknown)
        assert refused.returncode == ExitCode.error
        assert f"No job id is, starts or ends with '{unknown}'" in refused.stderr

    cancelled = grouptune("jobs", "cancel", first[-8:], second[6:14], first)
    assert (cancelled.returncode, cancelled.stdout) == (ExitCode.ok, f"{first}\n{second}\n")
    assert grouptune("jobs", "wait", first[-8:]).returncode == ExitCode.job_cancelled
    third = long_job()
    again = grouptune("jobs", "cancel", first, third, "--json")
    assert again.returncode == ExitCode.error
    assert [job["id"] for job in json.loads(again.stdout)] == [third]
    error = json.loads(again.stderr.splitlines()[-1])["error"]
    assert "too late to cancel it" in error["message"]
    assert error["code"] == "invalid_request"
