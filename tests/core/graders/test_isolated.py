"""The processes that checks run in: killed in time, replaced, and gone with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.core.graders import isolated
from app.core.graders.isolated import IsolatedPool
from app.core.graders.run import GraderPool, Sample
from app.core.graders.types import ErrorType
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


def test_hanging_check_is_killed_within_its_limit_from_a_thread_and_the_pool_serves_after_a_hundred() -> None:
    fine = (Sample(output_text=r"$\frac{1}{2}$"), {"answer": "0.5"})
    with GraderPool(MATH, workers=2, limit_seconds=0.1) as opened:
        in_thread(lambda: opened.grade_many([fine]))  # starting up is not what is measured
        started = time.monotonic()
        found = in_thread(lambda: opened.grade_many([(Sample(output_text=HANGING), {"answer": "3"})] * 100))
        seconds = time.monotonic() - started
        assert [grade_.error_type for grade_ in found] == [ErrorType.unresponsive] * 100
        assert all(grade_.reward is None and "0.1 s and was killed" in grade_.error for grade_ in found)
        assert seconds < 100 / 2 * 0.1 * 4
        server = opened._tools.pool("math")._server._process
        assert server is not None
        assert children(server.pid) == []  # killed and reaped, no zombies
        opened._tools.pool("math").limit_seconds = 20
        assert [grade_.reward for grade_ in in_thread(lambda: opened.grade_many([fine] * 4))] == [1.0] * 4


def test_pool_survives_the_death_of_worker_and_server() -> None:
    with IsolatedPool("math", workers=1, limit_seconds=20) as tools:
        assert tools.call("1/2", "$0.5$")
        server = tools._server._process
        assert server is not None
        for victim in (children(server.pid)[0], server.pid):
            family = {victim, *children(server.pid)}
            os.kill(victim, signal.SIGKILL)
            wait_until_dead(family)
            assert tools.call("1/2", "$0.5$")


def test_interrupted_check_leaves_no_answer_behind_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with IsolatedPool("math", workers=1, limit_seconds=20) as tools:
        assert tools.call("1/2", "$0.5$")
        with monkeypatch.context() as patch:
            patch.setattr(isolated, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tools.call("1/2", "$0.5$")
        assert tools.call("1/2", "$0.6$") is False


def test_closing_the_pool_ends_its_processes_and_is_not_final() -> None:
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
while tools._slots.empty() or tools._server._process is None:
    time.sleep(0.05)
print(tools._server._process.pid, flush=True)
tools.call("3", r"$10^{10^{10^{10}}}$")
"""


def test_workers_die_with_a_parent_that_is_killed_even_in_the_middle_of_a_check() -> None:
    command = [sys.executable, "-c", ORPHAN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        family = [server, *children(server)]
        eventually(lambda: cpu_ticks(family[1]) > 10)  # it is in the middle of the endless check
        parent.kill()
    assert len(family) == 2
    wait_until_dead(family)


def test_workers_import_neither_torch_nor_fastapi_and_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://canary")
    with IsolatedPool("math", workers=1, limit_seconds=20) as tools:
        assert tools.call("1/2", "$0.5$")
        server = tools._server._process
        assert server is not None
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "torch" not in maps
        assert "canary" not in Path(f"/proc/{server.pid}/environ").read_text()
    assert loaded_by("app.core.graders.isolated_server") & {"torch", "fastapi"} == set()


def test_grading_does_not_import_math_verify_here() -> None:
    assert loaded_by("app.core.graders.run") & {"sympy", "math_verify", "torch", "fastapi"} == set()


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    return set(output.split())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_ticks(pid: int) -> int:
    """User time so far, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def wait_until_dead(pids: Iterable[int]) -> None:
    eventually(lambda: not any(is_running(pid) for pid in pids), 10)


def is_running(pid: int) -> bool:
    """Zombies do not count: whoever adopts an orphan reaps it in its own time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
