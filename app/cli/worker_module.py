"""Runs a module of the worker as a process of its own: its work needs torch, which the command line does not load."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from app.cli.ui.console import Progress

KEPT_LINES: Final = 20
STOP_SECONDS: Final = 5.0


class ModuleFailed(Exception):
    """The process failed; the text says why: the end of its standard error."""


def run_module(words: Sequence[str], progress: Progress) -> str:
    """Standard output of `python -m WORDS...`; each line of its standard error goes to `progress`.

    Raises `ModuleFailed`. Whatever ends this early ends the process and its children too.
    """
    argv = [sys.executable, "-m", *words]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )
        try:
            kept: deque[str] = deque(maxlen=KEPT_LINES)
            for line in process.stderr or ():
                kept.append(line.rstrip())
                progress(kept[-1])
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        output.seek(0)
        if code == 0:
            return output.read()
    reason = "\n".join(["", *kept]).rpartition("\nerror: ")[2].strip()
    raise ModuleFailed(reason or f"it ended with code {code}")


def _stop(process: "subprocess.Popen[str]") -> None:
    """Ends the process and whatever it started (pip)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
