"""The supervisor with real processes. Tests that kill it run it as a separate program (`supervised.py`)."""

import os
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.local.errors import AlreadyRunning, LocalStackError
from app.local.process import ChildFailed, ChildSpec, RestartPolicy, log_tail
from app.local.supervisor import Supervisor
from tests.local.conftest import ALL_GONE_SECONDS, assert_all_end, family
from tests.local.supervised import PARENT_OF_ONE, python_child
from tests.processes import command_line

ROOT = Path(__file__).parents[2]
SLEEPER = "import signal; print('up', flush=True); signal.pause()"
FAST = RestartPolicy(first_delay_seconds=0.02, max_delay_seconds=0.05, stable_seconds=60.0, max_quick_failures=3)

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(used_state_dir: Path) -> Iterator[Launch]:
    """Start `supervised.py` on `used_state_dir` and return once it is ready."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.local.supervised", str(used_state_dir), *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        return program

    yield start
    for program in started:
        everyone = family(program.pid) if program.poll() is None else []
        program.kill()
        program.communicate()
        assert_all_end(everyone)


def child(state: Path, script: str, *, restart: RestartPolicy = FAST, name: str = "child") -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-S", "-c", script),
        env=os.environ.copy(),
        log_path=state / "logs" / f"{name}.log",
        restart=restart,
    )


def guards_of(group: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in group if any("guard.py" in word for word in command_line(process))]


@pytest.mark.parametrize("options", [("engines",), ("stubborn",)], ids=["engines", "stubborn"])
def test_killed_supervisor_leaves_no_process(launch: Launch, options: tuple[str, ...]) -> None:
    program = launch(*options)
    everyone = family(program.pid)
    assert len(everyone) >= 4
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert_all_end(everyone[1:])


def test_children_end_without_the_guard(launch: Launch) -> None:
    program = launch()
    everyone = family(program.pid)
    direct = psutil.Process(program.pid).children()
    for guard in guards_of(everyone):
        guard.kill()
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert_all_end(direct)
    for orphan in everyone[1:]:  # only the guard could end a grandchild, which has no death signal
        if orphan.is_running():
            orphan.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_ends_everything_in_order(launch: Launch, used_state_dir: Path, number: signal.Signals) -> None:
    program = launch("engines")
    everyone = family(program.pid)
    program.send_signal(number)
    assert program.wait(ALL_GONE_SECONDS) == 0
    assert_all_end(everyone[1:])
    assert "database system is shut down" in log_tail(used_state_dir / "logs" / "postgres.log")


def test_second_stop_signal_shortens_the_grace(launch: Launch) -> None:
    program = launch("stubborn")
    everyone = family(program.pid)
    program.send_signal(signal.SIGINT)
    program.send_signal(signal.SIGTERM)  # another number, so that the kernel cannot merge the two
    assert program.wait(ALL_GONE_SECONDS) == 0
    assert_all_end(everyone[1:])


def test_restart_after_a_kill(launch: Launch) -> None:
    first = launch("engines")
    everyone = family(first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    launch("engines")  # immediately: the old Postgres may still be shutting down
    assert_all_end(everyone[1:])


def test_second_supervisor_is_refused(launch: Launch, used_state_dir: Path) -> None:
    program = launch()
    with (
        pytest.raises(AlreadyRunning, match=rf"in use by process {program.pid}\."),
        Supervisor(used_state_dir),
    ):
        pass


def test_crashed_child_is_restarted(state_dir: Path) -> None:
    messages: queue.Queue[str] = queue.Queue()
    second_start = state_dir / "fifo"
    os.mkfifo(second_start)
    script = f"import signal; open({str(second_start)!r}, 'w').close(); signal.pause()"
    with Supervisor(state_dir, progress=messages.put) as supervisor:
        pid = supervisor.start(child(state_dir, script))
        with second_start.open() as first:  # returns when the child has opened the other end
            first.read()
        os.kill(pid, signal.SIGSEGV)
        with second_start.open() as second:
            second.read()
        assert messages.get(timeout=ALL_GONE_SECONDS) == "child ended with signal SIGSEGV. Restarting it in 0.02 s."
        supervisor.wait(0)


def test_permanent_failure_includes_the_log(state_dir: Path) -> None:
    script = "import sys; sys.exit('the reason is 4711')"
    with Supervisor(state_dir) as supervisor:
        supervisor.start(child(state_dir, script))
        with pytest.raises(ChildFailed, match=r"3 times right after its start") as failure:
            supervisor.wait(ALL_GONE_SECONDS)
    assert str(failure.value).count("the reason is 4711") == FAST.max_quick_failures


def test_child_that_was_ready_is_never_given_up(state_dir: Path) -> None:
    messages: queue.Queue[str] = queue.Queue()
    with Supervisor(state_dir, progress=messages.put) as supervisor:
        supervisor.start(child(state_dir, "import sys; sys.stdin.read(); sys.exit(3)"))
        supervisor.keep("child")
        for _ in range(2 * FAST.max_quick_failures):
            assert "Restarting it" in messages.get(timeout=ALL_GONE_SECONDS)
        supervisor.wait(0)


def test_group_of_a_crashed_child_is_killed(state_dir: Path) -> None:
    fifo = state_dir / "fifo"
    os.mkfifo(fifo)
    script = PARENT_OF_ONE.replace("try:", f"open({str(fifo)!r}, 'w').close()\ntry:")
    with Supervisor(state_dir) as supervisor:
        pid = supervisor.start(child(state_dir, script))
        with fifo.open() as up:
            up.read()
        processes = family(pid)
        assert len(processes) == 2
        os.kill(pid, signal.SIGKILL)
        assert_all_end(processes)
        with fifo.open() as up_again:
            up_again.read()


def test_children_stop_in_reverse_order(state_dir: Path) -> None:
    messages: list[str] = []
    with Supervisor(state_dir, progress=messages.append) as supervisor:
        for name in ("first", "second", "third"):
            supervisor.start(child(state_dir, SLEEPER, name=name))
    assert messages == ["Stopping third", "Stopping second", "Stopping first"]


def test_unresponsive_child_is_killed(state_dir: Path) -> None:
    fifo = state_dir / "fifo"
    os.mkfifo(fifo)
    ignoring = f"import signal; signal.signal(15, signal.SIG_IGN); open({str(fifo)!r}, 'w').close(); signal.pause()"
    with Supervisor(state_dir) as supervisor:
        process = psutil.Process(
            supervisor.start(python_child(state_dir, "ignoring", ignoring, stop_grace_seconds=0.2))
        )
        with fifo.open() as up:
            up.read()
    assert not process.is_running()


def test_missing_program_is_named(state_dir: Path) -> None:
    missing = ChildSpec(
        name="missing",
        argv=("/no/such/program",),
        env={},
        log_path=state_dir / "logs" / "missing.log",
        restart=FAST,
    )
    with Supervisor(state_dir) as supervisor:
        supervisor.start(missing)
        with pytest.raises(ChildFailed, match=re.escape("cannot start /no/such/program: ")):
            supervisor.wait(ALL_GONE_SECONDS)


def test_no_start_after_stop(state_dir: Path) -> None:
    with Supervisor(state_dir) as supervisor:
        pass
    with pytest.raises(LocalStackError, match="is stopping"):
        supervisor.start(child(state_dir, SLEEPER))


def test_restart_delay_grows_to_a_limit() -> None:
    policy = RestartPolicy(first_delay_seconds=0.5, max_delay_seconds=3.0)
    assert [policy.delay_seconds(failures) for failures in (1, 2, 3, 4, 99)] == [0.5, 1.0, 2.0, 3.0, 3.0]
