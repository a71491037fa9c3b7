"""Starts processes in milliseconds: forked from a server that has already imported what takes seconds."""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import TimeoutExpired
from types import TracebackType
from typing import Any, Self

from worker.parent_death import die_with

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


def start(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Run a module-level function in a new process."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


class Program:
    """`python -m MODULE WORDS...` as a process of its own, used like `subprocess.Popen`.

    Its standard streams are the given files. An output may be a FIFO: then `stdout` or `stderr` reads from it.
    """

    def __init__(
        self,
        module: str,
        words: Sequence[object],
        *,
        directory: Path,
        environment: Mapping[str, str],
        stdin: Path = Path(os.devnull),
        stdout: Path,
        stderr: Path,
    ) -> None:
        self.args = [module, *map(str, words)]
        for path in (stdout, stderr):
            if not path.is_fifo():
                path.write_bytes(b"")
        self._process = start(_run, self.args, directory, dict(environment), (stdin, stdout, stderr))
        self.stdout, self.stderr = (
            path.open(encoding="utf-8") if path.is_fifo() else None for path in (stdout, stderr)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self._process.join()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `TimeoutExpired`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def output(self, timeout: float) -> str:
        """Wait for the end of the process; return what it wrote to its FIFO. Raises `TimeoutExpired`."""
        assert self.stdout is not None
        text = self.stdout.read()
        self.wait(timeout)
        return text

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(args: list[str], directory: Path, environment: dict[str, str], streams: tuple[Path, Path, Path]) -> None:
    die_with(os.getppid())
    # As a new program has them. The server ends with the last copy of one of these, so with the tests.
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # Otherwise it would later close the number of its pipe, which by then may be a socket of the program.
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has replaced it by /dev/null
    sys.argv = args
    runpy.run_module(args[0], run_name="__main__", alter_sys=True)
