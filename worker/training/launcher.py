"""Starts the processes of a job that trains on several GPUs, with torch's elastic agent: what `torchrun` runs.

On several workers, one agent runs on each. The agents meet at a store of the first worker's agent, as with `torchrun
--nnodes --node-rank --master-addr`: the claim has already decided which worker has which number.

The agent takes the place of the trainer: it has the trainer's standard output, signals and exit code. Process 0 writes
its reports to standard output. Another process writes only why it failed, to a file that the agent forwards.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, ProcessFailure
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from app.core.plurals import plural
from app.core.spec.reports import Failed, TrainerExit
from app.core.spec.subprocess_environment import MEETING_BEGAN, PARENT_PID
from worker.training.distributed import SECONDS_TO_END
from worker.training.rank_files import report_file, stop_file

SECONDS_TO_MEET: Final = 40
"""How long the agents of several workers wait for each other; `process_group` limits what follows."""


@dataclass(frozen=True)
class Nodes:
    """The workers that train a job together."""

    count: int
    own: int
    """The number of this worker; the agent of worker 0 has the store."""
    endpoint: str
    """`host:port` of the store."""
    run_id: str
    """The same on all workers, and different for each attempt."""


def launch(run_dir: Path, processes: int, nodes: Nodes | None = None) -> int:
    """Run the processes of a job on this worker to their end and return the exit code of the trainer.

    SIGTERM must be blocked in the calling thread. The processes inherit that and unblock it when they can handle it.
    """
    if nodes is not None:
        os.environ[MEETING_BEGAN] = str(time.monotonic())
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it logs every failure again, in its own words
    for report in run_dir.glob(report_file(run_dir, 0).name.replace("0", "*")):
        report.unlink()
    os.environ[PARENT_PID] = str(os.getpid())
    stop_file(run_dir).unlink(missing_ok=True)
    threading.Thread(target=_pass_on_stop, args=(run_dir,), name="stop", daemon=True).start()
    config = LaunchConfig(
        nproc_per_node=processes,
        **_rendezvous(run_dir, nodes),
        max_restarts=0,  # the job is queued again, perhaps for another worker
        signals_to_handle="",  # the agent would end the processes; they must write a checkpoint first
        shutdown_timeout=SECONDS_TO_END,
        logs_specs=DefaultLogsSpecs(str(run_dir / "elastic")),  # by default in a directory that nothing removes
    )
    try:
        elastic_launch(config, sys.executable)("-m", "worker.training", run_dir)
    except DistError as error:
        if nodes is None:
            raise
        return _report_unmet(nodes, error)
    except ChildFailedError as error:
        rank, failure = cause(error.failures)
        return _forward(run_dir, rank, failure.exitcode)
    return TrainerExit.succeeded


def _rendezvous(run_dir: Path, nodes: Nodes | None) -> dict[str, Any]:
    """Return the arguments of `LaunchConfig` that say where the agents meet."""
    # The agent's own address is not the machine's name, which no name server may know.
    if nodes is None:
        meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
        return meeting | {"min_nodes": 1, "max_nodes": 1, "run_id": run_dir.name}
    return {
        "min_nodes": nodes.count,
        "max_nodes": nodes.count,
        "run_id": nodes.run_id,
        "rdzv_backend": "static",
        "rdzv_endpoint": nodes.endpoint,
        "rdzv_configs": {"rank": nodes.own, "timeout": SECONDS_TO_MEET},
        "local_addr": nodes.endpoint.rpartition(":")[0],
    }


def _report_unmet(nodes: Nodes, error: Exception) -> int:
    """Report that the agents have not met, and return the exit code for that."""
    sys.stderr.write(f"{error}\n")
    role = "waited for the other workers" if nodes.own == 0 else "could not connect"
    message = (
        f"The {plural(nodes.count, 'worker')} of the job did not meet: worker {nodes.own} {role} at "
        f"{nodes.endpoint} for {SECONDS_TO_MEET} s. Open this port between the workers (GROUPTUNE_RENDEZVOUS_PORT "
        "fixes it), or set GROUPTUNE_NODE_ADDRESS to an address of this worker that the others reach"
    )
    sys.stdout.write(Failed(code="workers_not_connected", message=message).model_dump_json() + "\n")
    sys.stdout.flush()
    return TrainerExit.dependency_down


def cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Returns the process, by its rank, that made the others fail.

    `failures` start with those that the agent saw first. Process 0 comes before others that fail for a reason of their
    own, because then all of them failed alike and it has reported; a killed process comes last, because the agent kills
    the rest.
    """

    def order(one: tuple[int, ProcessFailure]) -> tuple[bool, bool, bool]:
        rank, failure = one
        return failure.exitcode == TrainerExit.peer_lost, failure.exitcode < 0, rank != 0

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
