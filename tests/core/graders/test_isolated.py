"""The process pool of checks: time limits, replacement of workers, and no orphans."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.core.deadline import Deadline
from app.core.graders import isolated
from app.core.graders.isolated import IsolatedPool
from app.core.graders.run import GraderPool, Sample
from app.core.graders.types import ErrorType, GraderFailure
from app.core.spec.graders import MathGrader
from tests.waiting import eventually

HANGING = r"$10^{10^{10^{10}}}$"
MATH = MathGrader(reference="{{item.answer}}")


def in_thread(work: Any) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


@pytest.mark.slow
def test_pool_survives_twenty_hanging_checks() -> None:
    fine = (Sample(output_text=r"$\frac{1}{2}$"), {"answer": "0.5"})
    with GraderPool(MATH, workers=2, limit_seconds=0.1) as opened:
        in_thread(lambda: opened.grade_many([fine]))  # do not measure the start-up
        grades = in_thread(lambda: opened.grade_many([(Sample(output_text=HANGING), {"answer": "3"})] * 20))
        assert [item.error_type for item in grades] == [ErrorType.unresponsive] * 20
        assert all(item.reward is None and "0.1 s and was killed" in item.error for item in grades)
        server = opened._tools.pool("math")._server._process
        assert server is not None
        assert children(server.pid) == []  # killed and reaped: no zombies
        opened._tools.pool("math").limit_seconds = 20
        assert [item.reward for item in in_thread(lambda: opened.grade_many([fine] * 4))] == [1.0] * 4


@pytest.mark.slow
def test_pool_survives_dead_processes() -> None:
    with IsolatedPool("math", workers=1, limit_seconds=20) as tools:
        assert tools.call("1/2", "$0.5$")
        server = tools._server._process
        assert server is not None
        for victim in (children(server.pid)[0], server.pid):
            family = {victim, *children(server.pid)}
            os.kill(victim, signal.SIGKILL)
            wait_until_dead(family)
            assert tools.call("1/2", "$0.5$")


def test_interrupted_check_leaves_no_stale_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with IsolatedPool("math", workers=1, limit_seconds=20) as tools:
        assert tools.call("1/2", "$0.5$")
        with monkeypatch.context() as patch:
            patch.setattr(isolated, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tools.call("1/2", "$0.5$")
        assert tools.call("1/2", "$0.6$") is False


def test_expired_deadline_kills_a_check() -> None:
    """Also a call that waits for a process ends, and the pool stays usable."""
    deadline = Deadline()
    ended: list[ErrorType] = []

    def hang() -> None:
        with pytest.raises(GraderFailure) as caught:
            tools.call("3", HANGING, deadline=deadline)
        ended.append(caught.value.error_type)

    with IsolatedPool("math", workers=1, limit_seconds=600) as tools:
        assert tools.call("1/2", "$0.5$")
        server = tools._server._process
        assert server is not None
        [busy] = children(server.pid)
        threads = [threading.Thread(target=hang) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: cpu_ticks(busy) > 10)
        deadline.expire()
        for thread in threads:
            thread.join(60)
        assert ended == [ErrorType.unresponsive] * 2
        wait_until_dead([busy])
        assert tools.call("1/2", "$0.5$")


def test_closed_pool_can_be_used_again() -> None:
    tools = IsolatedPool("math", workers=1, limit_seconds=20)
    assert tools.call("1/2", "$0.5$")
    server = tools._server._process
    assert server is not None
    family = [server.pid, *children(server.pid)]
    tools.close()
    wait_until_dead(family)
    tools.close()


ORPHAN = """
import threading, time
from app.core.graders.isolated import IsolatedPool
tools = IsolatedPool("math", workers=1, limit_seconds=600)
threading.Thread(target=tools.call, args=("1/2", "$0.5$")).start()  # the starting thread ends at once
while not tools._free or tools._server._process is None:
    time.sleep(0.05)
print(tools._server._process.pid, flush=True)
tools.call("3", r"$10^{10^{10^{10}}}$")
"""


@pytest.mark.slow
def test_workers_die_with_a_killed_parent() -> None:
    command = [sys.executable, "-c", ORPHAN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        family = [server, *children(server)]
        eventually(lambda: cpu_ticks(family[1]) > 10)  # the endless check is running
        parent.kill()
    assert len(family) == 2
    wait_until_dead(family)


def test_workers_are_light_and_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://canary")
    with IsolatedPool("math", workers=1, limit_seconds=20) as tools:
        assert tools.call("1/2", "$0.5$")
        server = tools._server._process
        assert server is not None
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "torch" not in maps
        assert "canary" not in Path(f"/proc/{server.pid}/environ").read_text()
    assert loaded_by("app.core.graders.isolated_server") & {"torch", "fastapi"} == set()


def test_math_verify_is_not_imported() -> None:
    assert loaded_by("app.core.graders.run") & {"sympy", "math_verify", "torch", "fastapi"} == set()


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    return set(output.split())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_ticks(pid: int) -> int:
    """Return the user time so far, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def wait_until_dead(pids: Iterable[int]) -> None:
    eventually(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    """Return whether a process lives. A zombie does not count: the process that adopts an orphan reaps it later."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
