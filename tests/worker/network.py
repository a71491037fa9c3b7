"""Cuts TCP connections of other processes, as a failing network does."""

import ctypes
import os
import re
import socket
from pathlib import Path
from typing import Final

import pytest

_PIDFD_GETFD: Final = 438
_ESTABLISHED: Final = "01"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


def connections(pid: int) -> dict[int, tuple[str, str]]:
    """Return the own and the other address of each TCP connection of a process, by file descriptor."""
    table: dict[str, tuple[str, str]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _ESTABLISHED:
                table[fields[9]] = (fields[1], fields[2])
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        inode = _SOCKET.fullmatch(os.readlink(entry))
        if inode is not None and inode[1] in table:
            found[int(entry.name)] = table[inode[1]]
    return found


def cut(one: int, other: int) -> int:
    """Shut down all TCP connections between two processes; return how many."""
    ends = {(far, near) for near, far in connections(other).values()}
    between = [number for number, addresses in connections(one).items() if addresses in ends]
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(one)
    for number in between:
        copy = libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
        if copy < 0:
            pytest.skip(f"this machine permits no access to sockets of others: {os.strerror(ctypes.get_errno())}")
        with socket.socket(fileno=copy) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    os.close(pidfd)
    return len(between)
