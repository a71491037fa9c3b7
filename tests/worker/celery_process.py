"""Real Celery workers as subprocesses, for tests that kill them."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from app.local.process import Child, ChildSpec
from tests.waiting import all_end, eventually

QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
STOP_SECONDS = 30.0


class CeleryProcess:
    """`celery worker` with the arguments. Inside the block it accepts messages; on exit it is killed."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        directory: Path,
        application: str = "worker.celery_app",
    ) -> None:
        command = (sys.executable, "-m", "celery", "-A", application, "worker", "-n", f"{name}@test")
        self._spec = ChildSpec(
            name=name,
            argv=(*command, "--without-gossip", "--without-mingle", "--loglevel", "INFO", *arguments),
            env=os.environ | environment | QUIET,
            log_path=directory / f"{name}.log",
        )

    def __enter__(self) -> Self:
        self._child = Child(self._spec)
        eventually(lambda: b" ready." in self._spec.log_path.read_bytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.reap()

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        """Send SIGKILL to the worker only. Return once its beat and trainer processes have exited, within 5 s."""
        family = psutil.Process(self._child.pid).children(recursive=True)
        self._child.send(signal.SIGKILL)
        assert all_end(family, 5.0)

    def drain(self) -> int:
        """Send SIGTERM and return the exit code."""
        self._child.send(signal.SIGTERM)
        assert self._child.wait(STOP_SECONDS)
        return self._child.reap()
