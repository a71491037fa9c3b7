"""`python -m worker.training RUN_DIR`: the trainer subprocess.

Reads RUN_DIR/spec.json, writes one JSON report a line to standard output and everything else to standard error. SIGTERM
asks it to checkpoint and stop after the current step. Exit codes are `TrainerExit`.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TextIO

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """A runner that is killed takes its trainer along. Set before the slow imports, hence first in this file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get("GROUPTUNE_PARENT_PID")
    if parent is not None and os.getppid() != int(parent):
        sys.exit("the runner died before its trainer started")


def _claim_stdout() -> TextIO:
    """Keeps standard output for reports: whatever a library prints goes to standard error instead."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return reports


def main() -> int:
    """Runs the job of the directory named on the command line; returns the exit code."""
    _die_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    reports = _claim_stdout()
    gc.disable()  # what imports make stays: looking through it again and again is a tenth of the start
    from worker.training.setup import run  # noqa: PLC0415 - seconds of imports, after the lines above

    gc.freeze()
    gc.enable()
    return int(run(Path(sys.argv[1]), reports, stop))


if __name__ == "__main__":
    sys.exit(main())
