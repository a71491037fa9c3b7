"""Starts the processes of a job that trains on several GPUs, with torch's elastic agent: what `torchrun` runs.

The agent takes the place of the trainer: it has the trainer's standard output, signals and exit code. Process 0 writes
its reports to standard output. Another process writes only why it failed, to a file that the agent forwards.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, ProcessFailure
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from app.core.spec.reports import TrainerExit
from app.core.spec.subprocess_environment import PARENT_PID
from worker.training.distributed import PEER_LOST, SECONDS_TO_END
from worker.training.rank_files import report_file, stop_file


def launch(run_dir: Path, processes: int) -> int:
    """Run the processes of a job to their end and return the exit code of the trainer.

    SIGTERM must be blocked in the calling thread. The processes inherit that and unblock it when they can handle it.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it logs every failure again, in its own words
    for rank in range(1, processes):
        report_file(run_dir, rank).unlink(missing_ok=True)
    os.environ[PARENT_PID] = str(os.getpid())
    stop_file(run_dir).unlink(missing_ok=True)
    threading.Thread(target=_pass_on_stop, args=(run_dir,), name="stop", daemon=True).start()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # not the machine's own name, which no name server may know
        run_id=run_dir.name,
        max_restarts=0,  # the job is queued again, perhaps for another worker
        signals_to_handle="",  # the agent would end the processes; they must write a checkpoint first
        shutdown_timeout=SECONDS_TO_END,
        logs_specs=DefaultLogsSpecs(str(run_dir / "elastic")),  # by default in a directory that nothing removes
    )
    try:
        elastic_launch(config, sys.executable)("-m", "worker.training", run_dir)
    except ChildFailedError as error:
        rank, failure = cause(error.failures)
        return _forward(run_dir, rank, failure.exitcode)
    return TrainerExit.succeeded


def cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Returns the process, by its rank, that made the others fail.

    `failures` start with those that the agent saw first. Process 0 comes before others that fail for a reason of their
    own, because then all of them failed alike and it has reported; a killed process comes last, because the agent kills
    the rest.
    """

    def order(one: tuple[int, ProcessFailure]) -> tuple[bool, bool, bool]:
        rank, failure = one
        return failure.exitcode == PEER_LOST, failure.exitcode < 0, rank != 0

    return min(failures.items(), key=order)


def _forward(run_dir: Path, rank: int, code: int) -> int:
    """Write the report of the process that failed, and return the exit code of the trainer."""
    if rank and (path := report_file(run_dir, rank)).exists():
        sys.stdout.write(path.read_text(encoding="utf-8"))
        sys.stdout.flush()
    if code in (TrainerExit.succeeded, TrainerExit.stopped):
        return code
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    sys.stderr.write(f"Process {rank} of the trainer {ending}\n")
    return max(1, code)  # a killed process has a negative code, which becomes 1: a crash


def _pass_on_stop(run_dir: Path) -> None:
    """Pass SIGTERM on: by the file to processes that have not started yet, and by the signal to the others."""
    while True:
        signal.sigwait({signal.SIGTERM})
        stop_file(run_dir).touch()
        # The agent starts its processes in the main thread.
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
        for pid in map(int, children.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
