"""Inspects other processes, which may end at any time."""

import os
import signal
from pathlib import Path

import psutil


def command_line(process: psutil.Process) -> list[str]:
    """Return the words of the command line; empty if the process has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def descendants(word: str) -> list[psutil.Process]:
    """Return all descendants of this process that have `word` in their command line."""
    processes = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in processes if any(word in part for part in command_line(process))]


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a suspended process has been sent the signal and has not handled it yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) & 1 << (number - 1))
