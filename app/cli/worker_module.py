"""Runs a worker module in a separate process, because it needs torch, which the command line does not import."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from app.cli.ui.console import ReportProgress

KEPT_LINES: Final = 20
STOP_SECONDS: Final = 5.0


class ModuleFailed(Exception):
    """The process failed. The message is the end of its standard error."""


def run_module(words: Sequence[str], progress: ReportProgress) -> str:
    """Run `python -m WORDS...` and return its standard output; `progress` gets each line of its standard error.

    Raises `ModuleFailed`. Any exception, KeyboardInterrupt included, also ends the process and its children.
    """
    argv = [sys.executable, "-m", *words]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )
        try:
            tail: deque[str] = deque(maxlen=KEPT_LINES)
            for line in process.stderr or ():
                tail.append(line.rstrip())
                progress(tail[-1])
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        output.seek(0)
        if code == 0:
            return output.read()
    # Prefer the text behind the last `error: ` line over the whole tail.
    reason = "\n".join(["", *tail]).rpartition("\nerror: ")[2].strip()
    raise ModuleFailed(reason or f"the process ended with code {code}")


def _stop(process: "subprocess.Popen[str]") -> None:
    """End the process group: the process and its children, such as pip."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
