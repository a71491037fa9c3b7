"""Ranks that meet at the store, but cannot connect to each other, or become silent later."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported, but not in __all__

from app.core.spec.reports import Failed, TrainerExit
from app.core.spec.subprocess_environment import MEETING_BEGAN
from tests.forked import Program
from tests.waiting import eventually
from tests.worker.training.runs import REPOSITORY, Job
from tests.worker.training.test_distributed import two
from worker.gang import free_port
from worker.training.launcher import SECONDS_TO_MEET
from worker.training.process_group import (
    LEAST_SECONDS_TO_CONNECT,
    SECONDS_TO_CONNECT,
    SECONDS_TO_START,
    seconds_to_connect,
    unanswered,
)

MODULE: Final = "tests.worker.training.impatient_rank"
UNREACHABLE: Final = "10.9.9.9"
NETWORK: Final = f"""
set -e
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind
ip address add {UNREACHABLE}/32 dev lo label lo:far
ip route del local {UNREACHABLE} table local dev lo
ip route add unreachable {UNREACHABLE}
RANK=0 GLOO_SOCKET_IFNAME=lo "$@" > 0.out &
RANK=1 GLOO_SOCKET_IFNAME=lo:far "$@" > 1.out || echo $? > 1.code
wait $! || echo $? > 0.code
"""
"""A network of its own. Rank 1 publishes an address that it can listen on, but that rejects all connections."""


def environment(port: int) -> dict[str, str]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    return os.environ | meeting


def failure(out: Path) -> Failed:
    [line] = out.read_text().splitlines()
    return Failed.model_validate(json.loads(line))


@pytest.fixture
def job(tmp_path: Path, chat_directory: Path) -> Job:
    job = Job(tmp_path / "run", chat_directory, method="supervised")
    job.write()
    return two(job)


def test_rank_without_connections_gives_up(job: Job, tmp_path: Path) -> None:
    """Rank 0 arrives at the store and never connects, as behind a firewall."""
    port = free_port()
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    arrivals = PrefixStore("arrivals", store)
    arrivals.set("0", "other-machine")
    out, err = tmp_path / "out", tmp_path / "err"
    variables = environment(port) | {"RANK": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with Program(MODULE, [job.run_dir], directory=REPOSITORY, environment=variables, stdout=out, stderr=err) as rank:
        assert rank.wait(240) == TrainerExit.dependency_down, err.read_text()
    failed = failure(out)
    assert failed.code == "workers_not_connected"
    assert failed.message.startswith(
        f"The 2 processes of the job on other-machine, {socket.gethostname()} could not connect to each other. "
        f"Process 1, on {socket.gethostname()}: it has waited 2 s for connections from the others. Open all TCP ports"
    )
    assert "GLOO_SOCKET_IFNAME" in failed.message


@pytest.mark.slow
def test_unreachable_interface_fails_both_ranks(job: Job, tmp_path: Path) -> None:
    isolated = ["unshare", "--user", "--map-root-user", "--net"]
    if not shutil.which("ip") or subprocess.run([*isolated, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine permits no network namespaces")
    argv = [*isolated, "bash", "-c", NETWORK, "bash", sys.executable, "-m", MODULE, str(job.run_dir)]
    variables = environment(free_port()) | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(argv, cwd=tmp_path, env=variables, timeout=240, check=False, capture_output=True, text=True)
    codes = [int((tmp_path / f"{rank}.code").read_text()) for rank in range(2)]
    assert codes == [TrainerExit.dependency_down] * 2, done.stderr
    first, second = (failure(tmp_path / f"{rank}.out").message for rank in range(2))
    assert f"Process 0, on {socket.gethostname()}: " in first
    assert "No route to host" in first
    assert "it has waited 2 s for connections from the others" in second


@pytest.mark.slow
@pytest.mark.parametrize("silent", [0, 1])
def test_suspended_rank_ends_the_other(job: Job, tmp_path: Path, silent: int) -> None:
    """A suspended process keeps its connections open, like a machine whose network is cut."""
    job.write(n_epochs=50)
    two(job)
    port, out = free_port(), [tmp_path / f"{rank}.out" for rank in range(2)]
    _store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    with ExitStack() as running:
        ranks = []
        for rank in range(2):
            variables = environment(port) | {"RANK": str(rank), "TORCHELASTIC_USE_AGENT_STORE": "True"}
            program = Program(
                MODULE,
                [job.run_dir],
                directory=REPOSITORY,
                environment=variables,
                stdout=out[rank],
                stderr=tmp_path / f"{rank}.err",
            )
            ranks.append(running.enter_context(program))
            running.callback(program.kill)
        eventually(lambda: '"metrics"' in out[0].read_text())
        ranks[silent].send_signal(signal.SIGSTOP)
        assert ranks[1 - silent].wait(240) == TrainerExit.dependency_down
    failed = Failed.model_validate_json(out[1 - silent].read_text().splitlines()[-1])
    assert failed.message.startswith(f"Process {silent}, on {socket.gethostname()}, has not answered process ")


def test_meeting_and_connecting_take_a_minute_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MEETING_BEGAN, raising=False)
    assert seconds_to_connect() == SECONDS_TO_CONNECT  # of one machine
    for ago, seconds in ((-1000, SECONDS_TO_CONNECT), (1000, LEAST_SECONDS_TO_CONNECT)):
        monkeypatch.setenv(MEETING_BEGAN, str(time.monotonic() - ago))
        assert seconds_to_connect() == seconds
    monkeypatch.setenv(MEETING_BEGAN, str(time.monotonic() - 25))
    assert LEAST_SECONDS_TO_CONNECT <= seconds_to_connect() <= SECONDS_TO_START - 25
    assert SECONDS_TO_MEET + LEAST_SECONDS_TO_CONNECT <= SECONDS_TO_START < 60


def test_unanswered_connections_are_named() -> None:
    """A full backlog drops requests for a connection like a firewall does."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with ExitStack() as open_sockets, socket.socket(family) as listener:
            listener.bind((host, 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            for _ in range(2):
                client = open_sockets.enter_context(socket.socket(family))
                client.setblocking(False)
                client.connect_ex((host, port))
            shown = f"[{host}]" if ":" in host else host
            assert unanswered() == [f"{shown}:{port}"]
    assert unanswered() == []
