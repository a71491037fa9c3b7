"""Sends the metrics of one attempt to its trackers. No call blocks on a tracker or fails with it."""

import contextlib
import contextvars
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from app.core.jobs.leases import Claim
from app.core.settings import Settings
from app.core.spec.reports import Evaluated, Metrics
from app.core.spec.subprocess_environment import TRACKERS_ENVIRONMENT
from worker.child_process import ChildProcess
from worker.trackers.protocol import TrackerLine, TrackerRunSpec

log = structlog.get_logger(__name__)

SPOOLED: Final = 10_000
"""Lines that are buffered for a slow tracker; further lines are dropped."""
GRACE_SECONDS: Final = 30.0
"""Time for sending the remaining lines, after the attempt's outcome is stored. A short job may end while MLflow is
still being imported, which takes a busy machine ten seconds."""


class TrackerProcesses:
    """The tracker processes of an attempt, one for each tracker."""

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        directory: Path,
        complain: Callable[[str], None],
        *,
        python: str = sys.executable,
        spooled: int = SPOOLED,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """`directory` is the attempt's. `complain` adds a warning about a failed tracker to the job's events."""
        self._grace_seconds = grace_seconds
        tensorboard_dir = settings.tensorboard_dir or settings.state_dir / "tensorboard"
        internal = {"integrations", "typed_form", "lora_resolved"}
        config = claim.spec.model_dump(mode="json", by_alias=True, exclude=internal)
        self._feeds = []
        for integration in claim.spec.integrations:
            if integration.type not in settings.trackers:
                name = integration.type
                complain(f"The tracker {name} is not set up on this worker (GROUPTUNE_TRACKERS); the job continues.")
                continue
            spec = TrackerRunSpec(
                job_id=claim.job_id,
                project_id=claim.project_id,
                settings=integration.model_dump(mode="json"),
                config=config,
                directory=str(directory),
                tensorboard_dir=str(tensorboard_dir.absolute()),
            )
            try:
                self._feeds.append(_Feed(python, spec, directory / f"{integration.type}.log", complain, spooled))
            except OSError as error:
                complain(f"The tracker {integration.type} could not be started; the job continues. {error}")

    def offer(self, report: Metrics | Evaluated) -> None:
        """Queue the values of a step for every tracker; drop them where the queue is full."""
        values = {name: value for name, value in report.values.items() if value is not None and math.isfinite(value)}
        if values and (isinstance(report, Evaluated) or report.step > 0):
            for feed in self._feeds:
                feed.offer(TrackerLine(step=report.step, values=values))

    def close(self, outcome: str) -> None:
        """Send the outcome to all trackers; kill those that do not end in time."""
        for feed in self._feeds:
            feed.offer(TrackerLine(outcome=outcome))
        deadline = time.monotonic() + self._grace_seconds  # shared by all trackers: the next job waits for this worker
        for feed in self._feeds:
            feed.close(max(0.0, deadline - time.monotonic()))


class _Feed:
    """One tracker: its process, its queue, and a thread each for its input and its output."""

    def __init__(
        self, python: str, spec: TrackerRunSpec, log_path: Path, complain: Callable[[str], None], spooled: int
    ) -> None:
        self._name = str(spec.settings["type"])
        self._complain = complain
        self._lines: queue.Queue[TrackerLine] = queue.Queue(spooled)
        self._dropped = 0
        # Sent through standard input: a job with a long grader exceeds the size limit of an argument.
        self._spec_line = spec.model_dump_json()
        argv = (python, "-m", "worker.trackers")
        self._child = ChildProcess(argv, log_path, environment=TRACKERS_ENVIRONMENT.select(os.environ), with_input=True)
        for work in (self._write, self._read):
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(work,), name=f"tracker-{self._name}", daemon=True).start()

    def offer(self, line: TrackerLine) -> None:
        """Queue a line; drop it if the queue is full."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self, seconds: float) -> None:
        """Wait up to the given number of seconds for the process to end, then kill it."""
        if not self._child.ends_within(seconds):
            log.warning("tracker.killed", tracker=self._name)
            self._child.kill()
        if self._dropped:
            log.warning("tracker.dropped", tracker=self._name, lines=self._dropped)

    def _write(self) -> None:
        with contextlib.suppress(OSError), self._child.input() as pipe:  # the tracker has failed, which `_read` reports
            pipe.write(self._spec_line.encode() + b"\n")
            while True:
                line = self._lines.get()
                pipe.write(line.model_dump_json().encode() + b"\n")
                pipe.flush()
                if line.outcome is not None:
                    return

    def _read(self) -> None:
        for line in self._child.lines():
            reason = line.decode(errors="replace").strip()
            log.warning("tracker.failed", tracker=self._name, error=reason)
            self._complain(
                f"The tracker {self._name} failed and receives no further metrics; the job continues. {reason}"
            )
