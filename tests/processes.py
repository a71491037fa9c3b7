"""Inspects other processes, which may end at any time."""

import os

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
