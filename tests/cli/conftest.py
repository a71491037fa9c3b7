"""Fixtures that run `grouptune` as a separate process against a running server."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forked
from tests.tiny_model import write_rows

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]


def _environment(stack: Any) -> Callable[[dict[str, str | None]], dict[str, str]]:
    """Return a function that changes an environment with the test server in it; None unsets a variable."""
    own = os.environ | {"GROUPTUNE_URL": stack.base_url, "GROUPTUNE_API_KEY": stack.api_key}
    return lambda changed: {name: value for name, value in (own | changed).items() if value is not None}


@pytest.fixture
def start_grouptune(stack: Any) -> Start:
    """Start `grouptune WORDS...` with the test server in its environment; None unsets a variable."""
    environment = _environment(stack)

    def start(*words: object, **changed: str | None) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "app.cli", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(changed), stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    return start


def run_grouptune(
    words: Sequence[object], environment: dict[str, str], scratch: Path, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run `grouptune WORDS...` to its end; the files of its standard streams are in `scratch`."""
    given, out, err = scratch / "stdin", scratch / "stdout", scratch / "stderr"
    given.write_text(stdin)
    options: dict[str, Any] = {"directory": ROOT, "environment": environment}
    with forked.Program("app.cli", words, stdin=given, stdout=out, stderr=err, **options) as process:
        try:
            code = process.wait(240)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, code, out.read_text(), err.read_text())


@pytest.fixture
def grouptune(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `grouptune WORDS...` to its end, with the environment of `start_grouptune`; `stdin` is its standard input."""
    environment = _environment(stack)
    scratch = tmp_path_factory.mktemp("streams")

    def run(*words: object, stdin: str = "", **changed: str | None) -> "subprocess.CompletedProcess[str]":
        return run_grouptune(words, environment(changed), scratch, stdin)

    return run


@pytest.fixture
def answer_grouptune(stack: Any) -> Run:
    """Run `grouptune WORDS...` on a terminal that types `answer`; `stderr` is what the terminal shows."""
    environment = _environment(stack)

    def run(*words: object, answer: str, **changed: str | None) -> "subprocess.CompletedProcess[str]":
        terminal, own_end = pty.openpty()
        os.write(terminal, f"{answer}\n".encode())
        command = [sys.executable, "-m", "app.cli", *map(str, words)]
        streams: dict[str, Any] = {"stdin": own_end, "stdout": subprocess.PIPE, "stderr": own_end}
        done = subprocess.run(command, cwd=ROOT, env=environment(changed), text=True, **streams)
        shown = os.read(terminal, 65_536).decode()
        os.close(own_end)
        os.close(terminal)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout, shown)

    return run


def write_job(directory: Path, *, rows: int = 16, **hyperparameters: int) -> Path:
    """Write a job of two short steps on the model `tiny`, and its data next to it."""
    write_rows(directory / "train.jsonl", rows)
    text, reference = "{{sample.output_text}}", "{{item.reference_answer}}"
    settings = {
        "grader": {"type": "string_check", "input": text, "reference": reference, "operation": "eq"},
        "sampling": {"max_tokens": 4},
        "hyperparameters": {"batch_size": 2, "max_steps": 2} | hyperparameters,
    }
    body = {"model": "tiny", "training_file": "train.jsonl", "method": {"type": "gft", "gft": settings}}
    path = directory / "job.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    return partial(write_job, tmp_path)


@pytest.fixture(scope="session")
def succeeded_job(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Id of a job that has succeeded, for commands that change nothing."""
    directory = tmp_path_factory.mktemp("succeeded")
    words = ("jobs", "create", "--file", write_job(directory, learning_rate_multiplier=500), "--wait")
    done = run_grouptune(words, _environment(stack)({}), directory)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def long_job(grouptune: Run, job_file: Callable[..., Path]) -> Iterator[Callable[[], str]]:
    """Create jobs that outlast every test and return their ids; the end of the test cancels them."""
    ids: list[str] = []

    def create() -> str:
        path = job_file(rows=1000, batch_size=1, max_steps=100_000, n_epochs=50)
        ids.append(grouptune("jobs", "create", "-f", path).stdout.strip())
        return ids[-1]

    yield create
    for job_id in ids:  # also after a failure: other tests share the only training slot
        grouptune("jobs", "cancel", job_id)
