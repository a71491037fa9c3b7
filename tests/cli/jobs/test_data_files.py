"""Jobs are checked before anything is uploaded, and no content is uploaded twice; jobs from options."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli.files.upload import stored_copy
from app.cli.jobs import job_file
from app.cli.ui.exits import ExitCode
from app.client import Client
from app.core.errors import InvalidRequest
from tests.cli.conftest import Run
from tests.cli.jobs.test_create import ids_of
from tests.http_server import Reply, http_server
from tests.tiny_model import write_rows


def test_same_content_is_uploaded_once(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file(rows=21)
    before = ids_of(grouptune, "files")
    assert grouptune("jobs", "estimate", "-f", path).returncode == ExitCode.ok
    [file_id] = [name for name in ids_of(grouptune, "files") if name not in before]
    assert grouptune("jobs", "validate", "-f", path).returncode == ExitCode.ok
    renamed = path.with_name("renamed.jsonl")
    path.with_name("train.jsonl").rename(renamed)
    created = grouptune("jobs", "create", "-f", path, "--training-file", renamed)
    assert created.returncode == ExitCode.ok, created.stderr
    assert f"renamed.jsonl is already uploaded as {file_id}.\n" in created.stderr
    job = json.loads(grouptune("jobs", "show", created.stdout.strip(), "--json").stdout)
    assert job["training_file"] == file_id
    assert [name for name in ids_of(grouptune, "files") if name not in before] == [file_id]
    grouptune("jobs", "cancel", job["id"])  # unless it has ended


def test_wrong_job_uploads_nothing(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file(rows=22)
    before = ids_of(grouptune, "files")
    wrong = path.read_text().replace("batch_size", "batchsize")
    path.write_text(wrong)
    for command in ("create", "estimate"):
        done = grouptune("jobs", command, "-f", path, "--json")
        assert (done.returncode, done.stdout) == (ExitCode.error, ""), command
        assert json.loads(done.stderr)["error"]["param"] == "method.gft.hyperparameters.batchsize"
    path.write_text(wrong.replace("batchsize", "batch_size").replace("model: tiny", "model: gpt-9"))
    refused = grouptune("jobs", "validate", "-f", path, "--set", "gates=['eval/loss < 1']")
    assert (refused.returncode, refused.stdout) == (ExitCode.error, "not valid\n")
    assert "(model)" in refused.stderr
    assert "(gates.0)" in refused.stderr
    assert "file-not-uploaded" not in refused.stderr
    assert ids_of(grouptune, "files") == before


def test_job_from_options(grouptune: Run, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 23)
    flags = ("--model", "tiny", "--training-file", rows, "--suffix", "flags", "--set", "metadata.team=a b")
    grader = {"type": "regex", "pattern": "[0-9]"}
    created = grouptune(
        *("jobs", "create", *flags, "--grader", json.dumps(grader)),
        *(
            "--demonstrations",
            "graded",
            "--set",
            "group.self=2",
            "--set",
            "hyperparameters.max_steps=1",
            "--set",
            "seed=5",
            "--json",
        ),
    )
    assert created.returncode == ExitCode.ok, created.stderr
    job = json.loads(created.stdout)
    grouptune("jobs", "cancel", job["id"])
    settings = job["method"]["gft"]
    assert (job["user_provided_suffix"], job["metadata"], job["seed"]) == ("flags", {"team": "a b"}, 5)
    assert (settings["group"]["self"], settings["hyperparameters"]["max_steps"]) == (2, 1)
    assert settings["demonstrations"] == "graded"
    assert settings["grader"].items() >= grader.items()
    for words, message in (
        ((), "Describe the job in a file"),
        (("--training-file", rows), "The job names no model."),
        (("--file", rows), "is a data file, not a job"),
        (("--model", "tiny", "--training-file", rows, "--grader", "none.json"), "The file none.json does not exist."),
    ):
        refused = grouptune("jobs", "validate", *words)
        assert refused.returncode in (ExitCode.usage, ExitCode.error)
        assert message in " ".join(refused.stderr.split()), words


@pytest.mark.parametrize(
    ("body", "kind", "grader", "method"),
    [
        ({}, None, None, None),
        ({}, "dpo", None, {"type": "dpo"}),
        ({}, None, {"type": "x"}, {"type": "gft", "gft": {"grader": {"type": "x"}}}),
        (
            {"method": {"type": "gft", "gft": {"grader": 1, "group": 2}}},
            "gft",
            {"type": "x"},
            {"type": "gft", "gft": {"grader": {"type": "x"}, "group": 2}},
        ),
        ({"method": {"type": "gft", "gft": {}}}, "supervised", None, {"type": "supervised"}),
    ],
)
def test_method_and_grader_replace_those_of_the_file(body: Any, kind: Any, grader: Any, method: Any) -> None:
    assert job_file.with_method(body, kind, grader).get("method") == method


def test_settings_go_to_the_method_or_the_job() -> None:
    body: dict[str, Any] = {"method": {"type": "gft", "gft": {"group": {"self": 4, "expert": 1}}}}
    pairs = [
        "group.self=8",
        "seed=3",
        "control=dft",
        "metadata.note=two words",
        "method.gft.tau=0.5",
        "alias=[unclosed",
    ]
    assert job_file.with_settings(body, pairs) == {
        "method": {"type": "gft", "gft": {"group": {"self": 8, "expert": 1}, "tau": 0.5}},
        "seed": 3,
        "control": "dft",
        "metadata": {"note": "two words"},
        "alias": "[unclosed",
    }
    assert body["method"]["gft"]["group"]["self"] == 4
    assert job_file.with_settings({}, ["hyperparameters.n_epochs=2"]) == {
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    }
    for wrong in ("seed", "=1", "a..b=1"):
        with pytest.raises(InvalidRequest, match="is not a setting"):
            job_file.with_settings({}, [wrong])


def test_server_that_ignores_the_filter_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    page = b'{"data": [{"id": "file-other"}], "has_more": false}'
    with http_server(lambda _: Reply(page)) as url, Client(f"{url}/v1", "key") as client:
        assert stored_copy(client, tmp_path / "rows.jsonl") is None
