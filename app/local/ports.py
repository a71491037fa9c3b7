"""The TCP port of an installation: its clients, bookmarks and open pages keep their address over restarts."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from app.local.errors import LocalStackError
from app.local.placement import write_atomically

PORT_NAME: Final = "port"
PORT_MODE: Final = 0o644
FIRST_PORTS: Final = range(8000, 8100)
"""Tried in this order at the first start; below the ports that Linux gives to outgoing connections."""
HIGHEST_PORT: Final = 65535
SHOWN_COMMAND: Final = 80


def choose_port(state_dir: Path, host: str, held: ExitStack) -> int:
    """Return the port of the last start, or at the first start the first free one of `FIRST_PORTS`.

    A new port stays reserved until `held` closes: another installation that starts at this moment takes another one.
    Raises `LocalStackError` if the port of the last start is in use.
    """
    path = state_dir / PORT_NAME
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return _reserve_first_free(host, held)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= HIGHEST_PORT):
        raise LocalStackError(f"{path} does not contain a port number. Delete the file, or choose a port with --port.")
    return claim_port(host, int(text))


def store_port(state_dir: Path, port: int) -> None:
    """Store the port for `choose_port`."""
    write_atomically(state_dir / PORT_NAME, f"{port}\n", mode=PORT_MODE)


def claim_port(host: str, port: int) -> int:
    """Return `port`, or for 0 a free port picked by the kernel. Raises `LocalStackError` if the port is in use."""
    try:
        return _bind(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            problem = f"Cannot listen on {host}:{port} ({error.strerror}). Choose another --port or --host."
        else:
            problem = (
                f"Cannot listen on {host}:{port}: {_user_of(port)} uses the port. Stop that process, or choose "
                f"another port with --port. Later starts use the chosen port, too."
            )
        raise LocalStackError(problem) from error


def _reserve_first_free(host: str, held: ExitStack) -> int:
    for port in FIRST_PORTS:
        holder = socket.socket(_family(host))
        try:
            # Without SO_REUSEADDR, which would let two installations bind the same port until one of them listens.
            holder.bind((host, port))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # from now on: lets the API bind and listen
        held.enter_context(holder)
        return port
    return claim_port(host, 0)


def _bind(host: str, port: int) -> int:
    with socket.socket(_family(host)) as probe:
        # As uvicorn does: lingering connections of the last run (TIME_WAIT) do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _user_of(port: int) -> str:
    """Describe the process that has a socket on the port; the kernel hides the processes of other users."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if _has_one_of(sockets, process):
                words = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                return f"process {process.name} (`{words.decode(errors='replace')[:SHOWN_COMMAND]}`)"
    return "a process of another user"


def _has_one_of(sockets: set[str], process: Path) -> bool:
    for fd in (process / "fd").iterdir():
        with suppress(OSError):  # closed since the listing
            if os.readlink(fd) in sockets:
                return True
    return False


def _inodes(port: int) -> Iterator[str]:
    """Yield the inodes of the TCP sockets whose local port this is (Linux's proc_net_tcp)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):  # a kernel without IPv6
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
