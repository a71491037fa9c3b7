"""action.yml, the GitLab template and the shell example, run as CI runners do, against a running server."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import yaml

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import ROOT, Run
from tests.cli.jobs.test_wait import outputs, verdicts
from tests.dependencies import closure
from tests.issuer import Issuer, running_issuer

ACTION: Final[dict[str, Any]] = yaml.safe_load((ROOT / "action.yml").read_text())
GITLAB: Final[dict[str, Any]] = yaml.safe_load((ROOT / "examples" / "ci" / "gitlab.yml").read_text())[".grouptune"]
GITHUB: Final = {
    "repository": "acme/models",
    "workflow": "train",
    "job": "fine-tune",
    "action_path": str(ROOT),
}
_EXPRESSION: Final = re.compile(r"\$\{\{ (github|inputs)\.([\w-]+) \}\}")
TOOLS: Final = Path(sys.executable).parent
SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class Runner:
    """Runs the steps of the action as processes and passes their outputs on."""

    def __init__(self, directory: Path, run_id: str, **environment: str) -> None:
        self._directory = directory
        self._github = GITHUB | {"run_id": run_id}
        directory.mkdir()
        self.files = {
            name: directory / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH")
        }
        for path in self.files.values():
            path.touch()
        self._environment = {
            "PATH": f"{TOOLS}:{SYSTEM_PATH}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory),
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(directory),
            "RUNNER_TEMP": str(directory),
            **{name: str(path) for name, path in self.files.items()},
            **environment,
        }

    def run(self, **inputs: str) -> "subprocess.CompletedProcess[str]":
        """Run the steps until one fails."""
        given = {name: str(entry.get("default", "")) for name, entry in ACTION["inputs"].items()} | {
            name.replace("_", "-"): value for name, value in inputs.items()
        }
        values = {"github": self._github, "inputs": {name: self.evaluated(text, {}) for name, text in given.items()}}
        for step in ACTION["runs"]["steps"]:
            done = self.step(step, values)
            if done.returncode:
                break
        return done

    def step(self, step: dict[str, Any], values: dict[str, dict[str, str]]) -> "subprocess.CompletedProcess[str]":
        script = self._directory / "step.sh"
        script.write_text(step["run"])
        environment = {name: self.evaluated(str(text), values) for name, text in step["env"].items()}
        added = self.files["GITHUB_PATH"].read_text().split()
        path = ":".join([*reversed(added), self._environment["PATH"]])
        argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        whole = self._environment | environment | {"PATH": path}
        return subprocess.run(argv, cwd=self._directory, env=whole, capture_output=True, text=True, timeout=300)

    def evaluated(self, text: str, values: dict[str, dict[str, str]]) -> str:
        contexts = values or {"github": self._github}
        return _EXPRESSION.sub(lambda match: contexts[match[1]][match[2]], text)

    def outputs(self) -> dict[str, str]:
        """Return the outputs of the step, which are those of the action."""
        return outputs({name: str(path) for name, path in self.files.items()})


SCRIPTS: Final = {
    **{step["name"]: ("bash", step["run"]) for step in ACTION["runs"]["steps"]},
    "gitlab.yml": ("sh", "\n".join(GITLAB["script"])),
    "fine-tune.sh": ("sh", (ROOT / "examples" / "ci" / "fine-tune.sh").read_text()),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_pass_shellcheck(name: str) -> None:
    shell, script = SCRIPTS[name]
    command = [str(TOOLS / "shellcheck"), "--shell", shell, "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_files_match_the_ci_schemas(tmp_path: Path) -> None:
    pipeline = {".grouptune": GITLAB, "fine-tune": {"extends": ".grouptune", "variables": {"JOB": "job.yaml"}}}
    (tmp_path / "gitlab.yml").write_text(yaml.safe_dump(pipeline))
    for schema, path in (("github-actions", ROOT / "action.yml"), ("gitlab-ci", tmp_path / "gitlab.yml")):
        command = [str(TOOLS / "check-jsonschema"), "--builtin-schema", f"vendor.{schema}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., Runner]:
    """Return a factory for runners; each is one attempt of a workflow run."""
    return lambda run_id, **environment: Runner(tmp_path / uuid.uuid4().hex, run_id, **environment)


def test_expressions_use_known_names() -> None:
    expressions = re.findall(r"\$\{\{ ?(.*?) ?\}\}", (ROOT / "action.yml").read_text())
    known = {f"inputs.{name}" for name in ACTION["inputs"]} | {f"github.{name}" for name in (*GITHUB, "run_id")}
    steps = {f"steps.fine-tune.outputs.{name}" for name in ACTION["outputs"]}
    assert set(expressions) <= known | steps
    assert steps <= set(expressions)
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"], "an input would be read as a piece of the script"


def test_rerun_attaches_to_the_same_job(
    runner: Callable[..., Runner], job_file: Callable[..., Path], stack: Any
) -> None:
    path, run_id = job_file(), uuid.uuid4().hex
    inputs = {"url": stack.base_url, "api_key": stack.api_key, "job": str(path)}
    first = runner(run_id)
    gates = "eval/loss >= 0\n\neval/loss < 100\n"
    data = str(path.parent / "train.jsonl")
    done = first.run(**inputs, gates=gates, validation_file=data, junit=str(path.parent / "out.xml"))
    assert done.returncode == ExitCode.ok, done.stderr
    first_outputs = first.outputs()
    assert done.stdout.strip() == first_outputs["job-id"]
    assert first_outputs["model"].startswith("ft:tiny:")
    assert json.loads(first_outputs["metrics"])["eval/loss"] > 0
    assert verdicts(path.parent / "out.xml") == {
        "job": "system-out",
        "eval/loss >= 0": "system-out",
        "eval/loss < 100": "system-out",
    }
    assert f"| Model | {first_outputs['model']} |" in first.files["GITHUB_STEP_SUMMARY"].read_text()
    second = runner(run_id)
    assert second.run(**inputs, gates=gates, validation_file=data).returncode == ExitCode.ok
    assert second.outputs()["job-id"] == first_outputs["job-id"]


def test_missed_gate_fails_the_step(runner: Callable[..., Runner], job_file: Callable[..., Path], stack: Any) -> None:
    path, run_id = job_file(), uuid.uuid4().hex
    running = runner(run_id)
    data = str(path.parent / "train.jsonl")
    inputs = {"url": stack.base_url, "api_key": stack.api_key, "job": str(path), "validation_file": data}
    done = running.run(**inputs, gates="eval/loss < -1")
    assert done.returncode == ExitCode.gate_failed, done.stderr
    assert running.outputs()["model"] == ""
    assert "| eval/loss &lt; -1 | failed |" in running.files["GITHUB_STEP_SUMMARY"].read_text()
    again = runner(run_id)
    assert again.run(**inputs, gates="eval/loss < -1").returncode == ExitCode.gate_failed
    assert again.outputs() == running.outputs()


@pytest.fixture
def issuer(grouptune: Run, answer_grouptune: Run) -> Iterator[Issuer]:
    """Run a token issuer that the server trusts."""
    with running_issuer() as running:
        created = grouptune(
            *("trusts", "create", "models", "--provider", "github", "--repository-id", 1234),
            *("--audience", "https://grouptune.example", "--issuer", running.url, "--ref", "refs/heads/main"),
        )
        assert created.returncode == ExitCode.ok, created.stderr
        yield running
        trust = created.stdout.strip()
        kept = answer_grouptune("trusts", "delete", trust, answer="n")
        assert f"Delete 1 trust:\r\n  {trust}  models\r\nContinue?" in kept.stderr
        deleted = grouptune("trusts", "delete", trust)
        assert deleted.returncode == ExitCode.ok, deleted.stderr
        assert trust not in grouptune("trusts", "list").stdout


def test_action_exchanges_and_masks_a_token(
    runner: Callable[..., Runner], job_file: Callable[..., Path], stack: Any, issuer: Issuer
) -> None:
    identity = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
    }
    running = runner(uuid.uuid4().hex, **identity)
    inputs = {"url": stack.base_url, "job": str(job_file())}
    done = running.run(**inputs, audience="https://grouptune.example")
    assert done.returncode == ExitCode.ok, done.stderr
    [key] = re.findall(r"^::add-mask::(gt_live_\w+)$", done.stderr, re.MULTILINE)
    assert done.stderr.count(key) == 1
    assert key not in done.stdout
    assert running.outputs()["model"]
    other = runner(uuid.uuid4().hex, **identity).run(**inputs, audience="https://other.example")
    assert other.returncode == ExitCode.auth
    assert "aud 'https://other.example'" in other.stderr
    none = runner(uuid.uuid4().hex).run(**inputs)
    assert none.returncode == ExitCode.auth
    assert "permissions: {id-token: write}" in none.stderr


def test_action_installs_the_client_without_torch(runner: Callable[..., Runner], tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    (place / "python3").symlink_to(psutil.Process().exe())
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:  # as the runner checks it out: nothing is built
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    # pip does not download packages that are already installed there.
    installed = {"PYTHONPATH": sysconfig.get_path("purelib"), "PATH": f"{place}:{SYSTEM_PATH}"}
    running = runner("1", **installed, **pip)
    done = running.step(ACTION["runs"]["steps"][0], {"github": {"action_path": str(source)}, "inputs": {}})
    assert done.returncode == 0, done.stderr
    [added] = running.files["GITHUB_PATH"].read_text().split()
    where = [f"{added}/python", "-c", "import app.cli; print(app.__file__)"]
    location = subprocess.run(where, env=installed, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert location == f"{source}/app/__init__.py\n"
    help_of = [f"{added}/grouptune", "jobs", "create", "--help"]
    checked = subprocess.run(help_of, env=installed, cwd=tmp_path, capture_output=True, text=True)
    assert "--idempotency-key" in checked.stdout, checked.stderr
    client = closure()
    assert {"typer", "httpx"} <= client
    assert not {"torch", "fastapi"} & client


def sh(script: str, directory: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    whole = {"PATH": f"{TOOLS}:{SYSTEM_PATH}", "PYTHONPATH": str(ROOT), "HOME": str(directory)}
    argv = ["sh", "-ec", script]
    return subprocess.run(argv, cwd=directory, env=whole | environment, capture_output=True, text=True, timeout=240)


def test_gitlab_template_leaves_a_report(job_file: Callable[..., Path], stack: Any, grouptune: Run) -> None:
    path = job_file()
    with running_issuer() as issuer:
        trust = grouptune(
            *("trusts", "create", "models", "--provider", "gitlab", "--repository-id", 22),
            *("--audience", stack.base_url, "--issuer", issuer.url),
        )
        assert trust.returncode == ExitCode.ok, trust.stderr
        token = issuer.token(drop="repository_id", aud=stack.base_url, project_id="22", ref_path="refs/heads/main")
        own = {name: str(value) for name, value in GITLAB["variables"].items()}
        given = {
            "JOB": str(path),
            "GATES": "",
            "GROUPTUNE_URL": stack.base_url,
            "GROUPTUNE_ID_TOKEN": token,
            "CI_PROJECT_PATH": "acme/models",
            "CI_JOB_NAME": "fine-tune",
            "CI_PIPELINE_ID": uuid.uuid4().hex,
        }
        done = sh("\n".join(GITLAB["script"]), path.parent, **own | given)
        without_token = sh("\n".join(GITLAB["script"]), path.parent, **own | given | {"GROUPTUNE_ID_TOKEN": ""})
    assert (without_token.returncode, without_token.stdout) == (ExitCode.auth, "")
    assert done.returncode == ExitCode.ok, done.stderr
    assert verdicts(path.parent / GITLAB["artifacts"]["reports"]["junit"]) == {"job": "system-out"}
    for name in GITLAB["artifacts"]["paths"]:
        assert (path.parent / name).is_file()


def test_shell_example_reuses_the_commit_s_job(job_file: Callable[..., Path], stack: Any) -> None:
    path = job_file()
    made = "git init -q && git -c user.name=x -c user.email=x@y commit -q --allow-empty -m " + uuid.uuid4().hex
    assert sh(made, path.parent).returncode == 0
    server = {"GROUPTUNE_URL": stack.base_url, "GROUPTUNE_API_KEY": stack.api_key}
    script = f"{ROOT}/examples/ci/fine-tune.sh job.yaml"
    first, second = (sh(script, path.parent, **server) for _ in range(2))
    assert first.returncode == ExitCode.ok, first.stderr
    assert second.stdout == first.stdout
    assert verdicts(path.parent / "grouptune.xml") == {"job": "system-out"}
