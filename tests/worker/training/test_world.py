"""Two processes make the step that one makes, and end together."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from app.core.spec.reports import Finished, Metrics, TrainerExit
from tests.waiting import all_end
from tests.worker.training import plain
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.runs import REPOSITORY, STEPS, Job, of_kind, parse, read_until, trainer_process
from tests.worker.training.test_optimizer import mixed_groups
from tests.worker.training.updates import gradient
from worker.training.model import Policy
from worker.training.world import World


def test_one_process_keeps_everything_to_itself() -> None:
    world = World()
    assert world.share([1, 2, 3]) == [1, 2, 3]
    assert (world.sum(5), world.gather("x")) == (5, ["x"])


def test_shares_are_disjoint_and_complete() -> None:
    items = list(range(7))
    shares = [World(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert {len(share) for share in shares} == {2, 3}


def test_two_processes_have_the_gradient_of_one(llama: Policy, model_directory: ModelDirectory, tmp_path: Path) -> None:
    expected, alone = gradient(llama, mixed_groups(), tau=0.3)
    command = [sys.executable, "-m", "tests.worker.training.rank_of_two", str(tmp_path), str(model_directory("llama"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([*command, rank], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    told = [process.communicate(timeout=90)[0].split() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    for rank, (tokens, loss) in enumerate(told):
        assert int(tokens) == alone.trained_tokens
        assert float(loss) == pytest.approx(alone.loss, abs=1e-6)
        assert plain.distance(load_file(tmp_path / f"gradient-{rank}.safetensors"), expected) < 1e-6


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(69)", 69), ("os.kill(os.getpid(), 9)", 1)])
def test_rank_0_ends_with_the_exit_code_of_the_rank_that_failed(ending: str, code: int) -> None:
    rank = f"import os, sys; {ending}"
    watcher = f"""
import subprocess, sys
from worker.training.world import _end_with
_end_with(subprocess.Popen([sys.executable, "-c", {rank!r}]))
"""
    assert subprocess.run([sys.executable, "-c", watcher], cwd=REPOSITORY, timeout=60, check=False).returncode == code


def two(job: Job) -> Job:
    """The job's spec for two processes."""
    path = job.run_dir / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 2}))
    return job


@pytest.fixture
def job(tmp_path: Path, chat_directory: Path) -> Job:
    return Job(tmp_path / "run", chat_directory)


def test_a_run_of_two_reports_once_and_publishes(job: Job) -> None:
    job.write()
    with trainer_process(two(job)) as process:
        out, _ = process.communicate(timeout=100)
    assert process.returncode == TrainerExit.succeeded, (job.run_dir / "trainer.log").read_text()
    reports = parse(out)
    assert [row.step for row in of_kind(reports, Metrics)] == list(range(STEPS + 1))
    assert len(of_kind(reports, Finished)) == 1
    assert (job.run_dir / "adapter" / "adapter_model.safetensors").is_file()


def test_a_dead_rank_ends_the_trainer_and_a_stop_ends_both(job: Job) -> None:
    job.write(n_epochs=50)
    with trainer_process(two(job)) as process:
        read_until(process, Metrics, 1)
        family = psutil.Process(process.pid).children(recursive=True)
        [other] = [child for child in family if "worker.training" in child.cmdline()]
        other.kill()
        assert process.wait(20) not in (TrainerExit.succeeded, TrainerExit.stopped)
        assert all_end(family, 10)
    again = dataclasses.replace(job, run_dir=job.run_dir.with_name("stopped"))
    again.write(n_epochs=50)
    with trainer_process(two(again)) as process:
        read_until(process, Metrics, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == TrainerExit.stopped
