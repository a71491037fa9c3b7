"""Feeds the trackers of one attempt. Nothing here waits for a tracker or fails with one."""

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
from app.core.spec.trainer_environment import TRACKERS_ENVIRONMENT
from worker.child_process import ChildProcess
from worker.trackers.protocol import TrackerLine, TrackerRunSpec

log = structlog.get_logger(__name__)

SPOOLED: Final = 10_000
"""Lines that wait for a slow tracker; more are dropped."""
GRACE_SECONDS: Final = 10.0
"""For sending the rest, after the attempt's end is written."""


class TrackerProcesses:
    """All trackers of an attempt."""

    def __init__(self, claim: Claim, settings: Settings, directory: Path, complain: Callable[[str], None]) -> None:
        """`directory` is the attempt's; `complain` tells the job's events of a tracker that failed."""
        where = settings.tensorboard_dir or settings.state_dir / "tensorboard"
        config = claim.spec.model_dump(mode="json", by_alias=True, exclude={"integrations", "typed_form"})
        self._feeds = []
        for one in claim.spec.integrations:
            if one.type not in settings.trackers:
                complain(f"The tracker {one.type} is not set up on this worker (GROUPTUNE_TRACKERS); the job goes on.")
                continue
            wanted = TrackerRunSpec(
                job_id=claim.job_id,
                project_id=claim.project_id,
                settings=one.model_dump(mode="json"),
                config=config,
                directory=str(directory),
                tensorboard_dir=str(where.absolute()),
            )
            try:
                self._feeds.append(_Feed(wanted, directory / f"{one.type}.log", complain))
            except OSError as error:
                complain(f"The tracker {one.type} could not be started; the job goes on. {error}")

    def offer(self, report: Metrics | Evaluated) -> None:
        """Values of a step, for whoever has room for them."""
        values = {name: value for name, value in report.values.items() if value is not None and math.isfinite(value)}
        if values and (isinstance(report, Evaluated) or report.step > 0):
            for feed in self._feeds:
                feed.offer(TrackerLine(step=report.step, values=values))

    def close(self, outcome: str) -> None:
        """Tells all of them the end, and kills those that take long over it."""
        for feed in self._feeds:
            feed.offer(TrackerLine(outcome=outcome))
        deadline = time.monotonic() + GRACE_SECONDS  # for all of them: the next job waits for this worker
        for feed in self._feeds:
            feed.close(max(0.0, deadline - time.monotonic()))


class _Feed:
    """One tracker: its process, a queue in front of it, and a thread for each end of it."""

    def __init__(self, wanted: TrackerRunSpec, log_path: Path, complain: Callable[[str], None]) -> None:
        self._name = str(wanted.settings["type"])
        self._complain = complain
        self._lines: queue.Queue[TrackerLine] = queue.Queue(SPOOLED)
        self._dropped = 0
        # By its input: a job with a long grader is longer than an argument may be.
        self._wanted = wanted.model_dump_json()
        argv = (sys.executable, "-m", "worker.trackers")
        self._child = ChildProcess(argv, log_path, environment=TRACKERS_ENVIRONMENT.select(os.environ), with_input=True)
        for work in (self._write, self._read):
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(work,), name=f"tracker-{self._name}", daemon=True).start()

    def offer(self, line: TrackerLine) -> None:
        """Puts it into the queue, if there is room."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self, seconds: float) -> None:
        """Waits so long for what is under way."""
        if not self._child.ends_within(seconds):
            log.warning("tracker.killed", tracker=self._name)
            self._child.kill()
        if self._dropped:
            log.warning("tracker.dropped", tracker=self._name, lines=self._dropped)

    def _write(self) -> None:
        with contextlib.suppress(OSError), self._child.input() as pipe:  # it has failed, which `_read` tells
            pipe.write(self._wanted.encode() + b"\n")
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
            self._complain(f"The tracker {self._name} failed and gets no more metrics; the job goes on. {reason}")
