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
from pathlib import Path
from typing import TextIO

from app.core.spec.subprocess_environment import PARENT_PID
from worker.training.kernel_caches import limit_kernel_caches

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Makes the kernel kill this process when its runner dies. Called before the slow imports, to leave no gap."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(PARENT_PID)
    if parent is not None and os.getppid() != int(parent):
        sys.exit("the runner died before its trainer started")


def _claim_stdout() -> TextIO:
    """Returns standard output for reports, and redirects whatever libraries print to standard error."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return reports


def _hide_unused_bitsandbytes(run_dir: Path) -> None:
    """Makes `import bitsandbytes` fail in a job that does not quantise its base model.

    peft imports bitsandbytes wherever it is installed, and bitsandbytes imports torch's whole compiler: over a second.
    """
    spec = json.loads((run_dir / "spec.json").read_text(encoding="utf-8"))["spec"]
    if spec["settings"]["hyperparameters"]["base_precision"] != "4bit":
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # the import system's mark for "not installed"


def main() -> int:
    """Runs the job of the directory named on the command line and returns the exit code."""
    _die_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    reports = _claim_stdout()
    _hide_unused_bitsandbytes(Path(sys.argv[1]))
    limit_kernel_caches()
    gc.disable()  # imported objects live forever; collecting during imports takes a tenth of the start-up time
    from worker.training.setup import run  # noqa: PLC0415 - takes seconds, so it comes last

    gc.freeze()
    gc.enable()
    return int(run(Path(sys.argv[1]), reports, stop))


if __name__ == "__main__":
    sys.exit(main())
