"""Looks at other processes, which may end meanwhile."""

import os

import psutil


def command_line(process: psutil.Process) -> list[str]:
    """Its words; none once it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def descendants(word: str) -> list[psutil.Process]:
    """What runs below this process with the word in its command line."""
    everyone = psutil.Process(os.getpid()).children(recursive=True)
    return [one for one in everyone if any(word in part for part in command_line(one))]
