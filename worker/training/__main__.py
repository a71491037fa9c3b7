"""`python -m worker.training RUN_DIR`: the trainer subprocess.

Reads RUN_DIR/spec.json. Writes reports to standard output, one JSON object per line, and everything else to standard
error. SIGTERM makes it write a checkpoint and stop after the current step. Exit codes are `TrainerExit`.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from app.core.spec.subprocess_environment import PARENT_PID, RANK, RENDEZVOUS
from worker.training.kernel_caches import limit_kernel_caches
from worker.training.rank_files import report_file, stop_file

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Makes the kernel kill this process when its runner dies. Called before the slow imports, to leave no gap."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(PARENT_PID)
    if parent is not None and os.getppid() != int(parent):
        sys.exit("the runner died before its trainer started")


def _claim_stdout(report_file: Path | None) -> TextIO:
    """Returns standard output or a file for reports, and redirects whatever libraries print to standard error."""
    if report_file is not None:
        reports = report_file.open("w", encoding="utf-8", buffering=1)
    else:
        reports = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return reports


def _hide_unused_bitsandbytes(spec: Mapping[str, Any]) -> None:
    """Makes `import bitsandbytes` fail in a job that does not quantise its base model.

    peft imports bitsandbytes wherever it is installed, and bitsandbytes imports torch's whole compiler: over a second.
    """
    if spec["settings"]["hyperparameters"]["base_precision"] != "4bit":
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # the import system's mark for "not installed"


def main() -> int:
    """Runs the job of the directory named on the command line and returns the exit code."""
    _die_with_parent()
    run_dir, rank = Path(sys.argv[1]), os.environ.get(RANK)
    trainer_spec = json.loads((run_dir / "spec.json").read_text(encoding="utf-8"))
    processes, count = int(trainer_spec["processes"]), int(trainer_spec["nodes"])
    if rank is None and processes * count > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        from worker.training.launcher import Nodes, launch  # noqa: PLC0415 - imports torch

        if count == 1:
            return launch(run_dir, processes)
        run_id = f"{trainer_spec['job_id']}-a{trainer_spec['attempt']}"
        return launch(run_dir, processes, Nodes(count, int(trainer_spec["node"]), os.environ[RENDEZVOUS], run_id))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the launcher blocks it
    reports = _claim_stdout(report_file(run_dir, int(rank)) if rank not in (None, "0") else None)
    if rank is not None and stop_file(run_dir).exists():
        stop.set()
    _hide_unused_bitsandbytes(trainer_spec["spec"])
    limit_kernel_caches()
    gc.disable()  # imported objects live forever; collecting during imports takes a tenth of the start-up time
    from worker.training.setup import run  # noqa: PLC0415 - takes seconds, so it comes last

    gc.freeze()
    gc.enable()
    return int(run(run_dir, reports, stop))


if __name__ == "__main__":
    sys.exit(main())
