"""Real Celery workers in processes of their own, for tests that kill them."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.forked import Program
from tests.interpreter.sitecustomize import NAME
from tests.waiting import all_end, eventually

QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
STOP_SECONDS = 120.0


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
        quiet = ("--without-gossip", "--without-mingle", "--loglevel", "INFO")
        self._words = ["-A", application, "worker", "-n", f"{name}@test", *quiet, *arguments]
        self._environment = os.environ | environment | QUIET
        self.log = directory / f"{name}.log"

    def __enter__(self) -> Self:
        self._process = Program(
            "celery",
            self._words,
            directory=Path.cwd(),
            environment=self._environment,
            stdout=self.log,
            stderr=self.log,
        )
        eventually(lambda: b" ready." in self.log.read_bytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self.kill()
        self._process.wait(STOP_SECONDS)

    @property
    def pid(self) -> int:
        return self._process.pid

    def family(self) -> list[psutil.Process]:
        """Return the descendants of the worker, and the trainers that were forked for them, with their descendants."""
        found: list[psutil.Process] = []
        unseen = [psutil.Process(self.pid)]
        while unseen:
            process = unseen.pop()
            children = process.children()
            if process.name().startswith(NAME):
                children.append(psutil.Process(int(process.name().removeprefix(NAME))))
            found += children
            unseen += children
        return found

    def ranks(self) -> list[psutil.Process]:
        """Return the processes that train a job."""
        family = self.family()
        return [process for process in family if not process.children() and not process.name().startswith(NAME)]

    def kill(self) -> None:
        """Send SIGKILL to the worker only. Return once its trainer processes have exited."""
        family = self.family()
        self._process.kill()
        assert all_end(family, STOP_SECONDS)

    def suspend(self) -> None:
        """Stop the worker and its trainers, as when their machine is frozen."""
        for process in (psutil.Process(self.pid), *self.family()):
            process.suspend()

    def resume(self) -> None:
        """Continue after `suspend`."""
        for process in (*self.family(), psutil.Process(self.pid)):
            process.resume()

    def drain(self) -> int:
        """Send SIGTERM and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_SECONDS)
