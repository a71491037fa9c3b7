"""`grouptune up` and `grouptune demo` as processes: output, cleanup and restart."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from openai import OpenAI

from app.cli.demo import data
from app.cli.up import announce, make_stack
from tests.http_server import free_port
from tests.local.conftest import assert_all_end, family, used_state_dir
from tests.processes import command_line
from tests.tiny_model import write_rows
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
MARK = "GROUPTUNE_TEST_MARK"

__all__ = ["used_state_dir"]


class Installation(NamedTuple):
    """A state directory, and an environment that identifies its processes."""

    state: Path
    environment: dict[str, str]

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start `grouptune WORDS...` for this installation."""
        argv = [sys.executable, "-m", "app.cli", *words, "--state-dir", str(self.state)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=self.environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            # A shell starts background jobs with SIGINT ignored, which children inherit: Ctrl-C must work there too.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this installation, including orphaned ones."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            marked = process.environ().get(MARK) == self.environment[MARK]
            return marked or any(str(self.state) in word for word in process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


@pytest.fixture(scope="module")
def installation(used_state_dir: Path, tiny_models: Path) -> Installation:
    small = {"GROUPTUNE_MODELS_DIR": str(tiny_models), "GROUPTUNE_TRAINER_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return Installation(used_state_dir, os.environ | small | {MARK: uuid.uuid4().hex})


class Demo(NamedTuple):
    """Report and standard error of a finished `grouptune demo`, and a browser that signed in during it."""

    report: dict[str, Any]
    output: str
    base_url: str
    cookies: httpx.Cookies


@pytest.fixture(scope="module")
def demo(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo on the model `tiny` to its end."""
    path = tmp_path_factory.mktemp("demo") / "report.json"
    words = ("demo", "--model", "tiny", "--seed", "11", "--json", str(path), "--no-keep", "--port", str(free_port()))
    with installation.start(*words) as process:
        assert process.stderr is not None
        read: list[str] = []
        for line in process.stderr:
            read.append(line)
            if "#code=" in line:
                break
        link = urlsplit(read[-1].split()[-1])
        base_url = f"{link.scheme}://{link.netloc}/v1"
        code = {"code": link.fragment.removeprefix("code=")}
        origin = {"origin": f"{link.scheme}://{link.netloc}"}
        signed_in = httpx.post(f"{base_url}/dashboard/session", json=code, headers=origin, timeout=60)
        output = "".join([*read, process.stderr.read()])
        assert process.wait(240) == 0, output
    assert signed_in.is_success, signed_in.text
    return Demo(json.loads(path.read_text()), output, base_url, signed_in.cookies)


@contextmanager
def up(installation: Installation) -> Iterator["tuple[subprocess.Popen[str], OpenAI]"]:
    """Start an installation and yield it with a client; stops it with Ctrl-C."""
    with installation.start("up") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            base_url = process.stdout.readline().strip()
            connection = json.loads((installation.state / "connection.json").read_text())
            assert connection["base_url"] == base_url
            assert base_url.endswith("/v1")
            yield process, OpenAI(base_url=base_url, api_key=connection["api_key"])
        finally:
            process.send_signal(signal.SIGINT)
            output = process.stderr.read()
            assert process.wait(240) == 0, output
            assert "Grouptune is up." in output
            assert output.endswith("Stopped.\n")


def test_demo_prints_a_report(demo: Demo, installation: Installation) -> None:
    for when in ("before", "after"):
        assert 0 <= demo.report[when]["accuracy"] <= 1
        assert demo.report[when]["mean_tokens"] > 0
    assert demo.report["seed"] == 11
    assert demo.report["fine_tuned_model"].startswith("ft:tiny:default:demo:")
    assert (Path(demo.report["adapter"]) / "adapter_model.safetensors").stat().st_size > 0
    # The server counts the rows that the demo generated.
    expected = f"{data.TRAIN_ROWS} rows", f"{data.HELDOUT_ROWS} rows"
    progress = "held-out problems solved at step 0", "reward", "Held-out problems, never trained on"
    for part in (*expected, *progress, demo.report["adapter"], demo.report["job_id"], "/v1"):
        assert part in demo.output, (part, demo.output)


@pytest.mark.usefixtures("demo")
def test_demo_leaves_no_process(installation: Installation) -> None:
    eventually(lambda: not installation.processes())
    assert not (installation.state / "connection.json").exists()


def test_up_restarts_and_ctrl_c_stops_everything(demo: Demo, installation: Installation, tmp_path: Path) -> None:
    with up(installation) as (process, client):
        assert (installation.state / "connection.json").stat().st_mode & 0o777 == 0o600
        assert str(client.base_url).rstrip("/") == demo.base_url, "the port of the last start"
        session = httpx.get(f"{demo.base_url}/dashboard/session", cookies=demo.cookies, timeout=60).json()
        assert session["signed_in"], "a browser stays signed in over restarts"
        assert client.fine_tuning.jobs.retrieve(demo.report["job_id"]).status == "succeeded"
        assert demo.report["fine_tuned_model"] in {model.id for model in client.models.list()}
        file = client.files.create(file=write_rows(tmp_path / "rows.jsonl", 4), purpose="fine-tune")
        assert client.files.content(file.id).read() == (tmp_path / "rows.jsonl").read_bytes()
        with installation.start("up") as second:
            _, refusal = second.communicate(timeout=240)
        assert second.returncode == 1
        assert f"in use by process {process.pid}" in refusal
        # A suspended worker trains nothing, so the demo's job cannot end before it is cancelled.
        [train_worker] = [child for child in family(process.pid) if "train@%h" in command_line(child)]
        train_worker.suspend()
        try:
            interrupted = interrupted_demo(installation)
            eventually(lambda: client.fine_tuning.jobs.retrieve(interrupted).status == "cancelled")
        finally:
            train_worker.resume()
        everyone = family(process.pid)
        assert len(everyone) > 6
        unseen = [command_line(process) for process in set(everyone) - set(installation.processes())]
        # Postgres backends overwrite their environment with their title; they end with the postmaster, which is listed.
        blind = [words for words in unseen if words and not words[0].startswith("postgres: ")]
        assert blind == []
    assert_all_end(everyone)
    eventually(lambda: not installation.processes())
    assert not (installation.state / "connection.json").exists()


@pytest.mark.usefixtures("demo")
def test_network_listener_needs_another_key(installation: Installation) -> None:
    with installation.start("up", "--host", "0.0.0.0") as refused:  # noqa: S104 - it never listens
        _, output = refused.communicate(timeout=240)
    assert refused.returncode == 1
    assert "grouptune keys create" in output
    eventually(lambda: not installation.processes())


def interrupted_demo(installation: Installation) -> str:
    """Interrupt a demo on the running server with Ctrl-C; returns the id of its job."""
    with installation.start("demo", "--model", "tiny") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"Using the server that already runs from {installation.state}\n"
        for line in process.stderr:
            if line.startswith("ftjob-"):
                break
        process.send_signal(signal.SIGINT)
        job_id = line.split(":")[0]
        assert process.stderr.read().endswith(f"Cancelling {job_id}.\n")
    assert process.returncode == 130
    return job_id


def test_start_without_a_dashboard_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The API may be killed just after it was ready: it is restarted, so the start succeeds."""
    announce(make_stack(tmp_path, "127.0.0.1", free_port(), lambda _message: None))
    output = capsys.readouterr().err
    assert f"grouptune dashboard --state-dir {tmp_path}" in output.replace("\n", "")
    assert output.endswith("Press Ctrl-C to stop.\n")
