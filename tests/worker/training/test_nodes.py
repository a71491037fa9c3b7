"""A job over two workers: two agents, each with a process, that meet on loopback."""

import dataclasses
import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from safetensors.torch import load_file

from app.core.spec.reports import CheckpointSaved, Failed, Finished, Metrics, Started, TrainerExit
from app.core.spec.subprocess_environment import RENDEZVOUS
from tests.forked import Program
from tests.worker.network import cut
from tests.worker.training import plain
from tests.worker.training.runs import (
    REPOSITORY,
    STEPS,
    Job,
    of_kind,
    parse,
    read_until,
    steady,
    trainer_process,
)
from worker.gang import free_port

WEIGHTS: Final = "adapter_model.safetensors"
UNMET: Final = """
import sys
from pathlib import Path
from worker.training import launcher
launcher.SECONDS_TO_MEET = 2
nodes = launcher.Nodes(2, int(sys.argv[2]), sys.argv[3], "run")
sys.exit(launcher.launch(Path(sys.argv[1]), 1, nodes))
"""


@pytest.fixture
def job(tmp_path: Path, chat_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv(RENDEZVOUS, f"127.0.0.1:{free_port()}")
    return Job(tmp_path / "run", chat_directory, method="supervised")


def start(running: ExitStack, job: Job, **options: Any) -> list[tuple[Job, Program]]:
    """Start the trainers of two workers, each with a run directory of its own."""
    started = []
    for node in range(2):
        own = dataclasses.replace(job.sibling(f"node-{node}"), trainer={"nodes": 2, "node": node})
        own.write(**options)
        started.append((own, running.enter_context(trainer_process(own))))
    return started


@pytest.mark.slow
def test_two_workers_train_as_one(job: Job) -> None:
    _, alone = job.sibling("alone").run()
    with ExitStack() as running:
        outputs = [(own, process, process.output(240)) for own, process in start(running, job)]
    for own, process, _ in outputs:
        assert process.returncode == TrainerExit.succeeded, (own.run_dir / "trainer.log").read_text()
    reports, others = (parse(out) for _, _, out in outputs)
    assert others == []
    assert len(of_kind(reports, Finished)) == 1
    shared = {report.step: report.values["loss"] for report in of_kind(reports, Metrics) if report.step}
    whole = {report.step: report.values["loss"] for report in of_kind(alone, Metrics) if report.step}
    assert list(shared) == list(range(1, STEPS + 1))
    assert shared == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_worker_ends_the_other(job: Job, victim: int) -> None:
    with ExitStack() as running:
        nodes = start(running, job, n_epochs=50)
        read_until(nodes[0][1], Metrics, 1)
        nodes[victim][1].kill()  # the agent; its process dies with it
        left = nodes[1 - victim][1]
        left.output(240)
        assert left.returncode == TrainerExit.peer_lost


@pytest.mark.slow
def test_killed_job_resumes_on_other_numbers_of_processes(job: Job) -> None:
    """Two workers train to a checkpoint; then one process, and two on one worker, train what one process trains."""
    _, alone = job.sibling("alone").run()
    expected = steady(alone)
    with ExitStack() as running:
        nodes = start(running, job)
        read_until(nodes[0][1], CheckpointSaved, 3)
        for _, agent in nodes:
            agent.kill()
    last = nodes[0][0].checkpoint(3)
    code, by_one = job.sibling("one").run(resume_from=last)
    assert code == TrainerExit.succeeded
    pair = job.sibling("pair", trainer={"processes": 2})
    pair.write(resume_from=last)
    with trainer_process(pair) as process:
        by_two = parse(process.output(240))
    assert process.returncode == TrainerExit.succeeded, (pair.run_dir / "trainer.log").read_text()
    for reports in (by_one, by_two):
        [started] = of_kind(reports, Started)
        assert started.resumed_from_step == 3
        resumed = steady(reports)
        assert list(resumed) == list(range(4, STEPS + 1))
        for step, values in resumed.items():
            # An estimate from samples, whose random numbers depend on the number of processes.
            named = {name: value for name, value in expected[step].items() if name != "eval/forward_kl"}
            assert {name: values[name] for name in named} == pytest.approx(named, abs=1e-5), step
    adapters = [load_file(job.sibling(name).run_dir / "adapter" / WEIGHTS) for name in ("alone", "one", "pair")]
    for adapter in adapters[1:]:
        assert plain.distance(adapter, adapters[0]) < 1e-4


@pytest.mark.slow
def test_cut_connection_ends_both_workers(job: Job) -> None:
    with ExitStack() as running:
        nodes = start(running, job, n_epochs=50)
        read_until(nodes[0][1], Metrics, 1)
        processes = [child for _, agent in nodes for child in psutil.Process(agent.pid).children()]
        first, second = (one.pid for one in processes if "RANK" in one.environ())
        assert cut(first, second) > 0
        for own, process in nodes:
            process.output(240)
            assert process.returncode == TrainerExit.peer_lost, (own.run_dir / "trainer.log").read_text()


@pytest.mark.slow
def test_stop_of_one_worker_stops_both(job: Job) -> None:
    with ExitStack() as running:
        nodes = start(running, job, n_epochs=50)
        read_until(nodes[0][1], Metrics, 1)
        nodes[1][1].send_signal(signal.SIGTERM)
        for _, process in nodes:
            process.output(240)
            assert process.returncode == TrainerExit.stopped


@pytest.mark.slow
@pytest.mark.parametrize(("node", "role"), [(0, "waited for the other workers"), (1, "could not connect")])
def test_workers_that_do_not_meet_say_where(tmp_path: Path, node: int, role: str) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    argv = [sys.executable, "-c", UNMET, str(tmp_path), str(node), endpoint]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == TrainerExit.dependency_down, done.stderr
    failed = Failed.model_validate(json.loads(done.stdout))
    assert f"worker {node} {role} at {endpoint} for 2 s" in failed.message
