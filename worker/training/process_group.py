"""Forms the process group of a job's ranks, and says in words why they could not connect.

The agents of several workers have already met at a store. The ranks connect to each other on further ports, which gloo
or NCCL chooses. If a firewall drops these packets, the libraries wait far longer than their timeouts say: gloo tries
several times, and NCCL's first connections have no timeout. So a timer of our own bounds the wait.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from app.core.plurals import plural
from app.core.spec.reports import TrainerExit
from app.core.spec.subprocess_environment import MEETING_BEGAN, RANK
from worker.training.distributed import PeerLost, Ranks
from worker.training.pulse import Pulse
from worker.training.types import JobFailure

_TIMEOUT: Final = timedelta(hours=6)
"""For collectives. Long, because the others wait while rank 0 waits for a teacher; the launcher notices a dead rank at
once."""
SECONDS_TO_CONNECT: Final = 45.0
"""From the arrival of the last rank to the end of the first collective."""
SECONDS_TO_START: Final = 55.0
"""From the first attempt of several workers to meet: a blocked port ends the attempt within a minute."""
LEAST_SECONDS_TO_CONNECT: Final = 15.0
"""Also if the workers met late, or loaded their libraries slowly."""
_ENDED: Final = ("by peer", "ncclRemoteError")
"""Texts of gloo and NCCL for a connection that another rank has closed."""
_SYN_SENT: Final = "02"


def own_rank() -> int:
    """Returns the rank of this process; 0 without a launcher."""
    return int(os.environ.get(RANK, "0"))


@contextmanager
def joined(size: int, give_up: Callable[[JobFailure], None]) -> Iterator[Ranks]:
    """Joins the process group of `size` ranks that `worker.training.launcher` started, for the `with` block.

    Waits without limit until all ranks have loaded their libraries, then `seconds_to_connect` for the connections. If
    a library still waits after that, or another rank becomes silent later, a thread calls `give_up`, which must end the
    process. Raises `JobFailure` for a refused connection, and `PeerLost`.
    """
    if size == 1:
        yield Ranks()
        return
    ranks = Ranks(own_rank(), size)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    hosts: list[str] = []
    timer: threading.Timer | None = None
    try:
        store, _, _ = next(rendezvous("env://", timeout=_TIMEOUT))
        hosts += _arrive(store, ranks)
        seconds = seconds_to_connect()
        timer = threading.Timer(seconds, lambda: give_up(_not_connected(ranks, hosts, backend, _waited(seconds))))
        timer.daemon = True
        timer.start()
        with _connecting(ranks, hosts, backend):
            distributed.init_process_group(backend, store=store, rank=ranks.rank, world_size=size, timeout=_TIMEOUT)
            first = torch.zeros(1, device="cuda" if backend == "nccl" else "cpu")
            distributed.all_reduce(first)  # NCCL connects in the first collective
            first.item()
    except distributed.DistError as error:
        raise PeerLost(f"The store of the ranks has ended: {error}") from error
    finally:
        if timer is not None:
            timer.cancel()
    with Pulse(store, ranks, hosts, give_up):
        yield ranks


def seconds_to_connect() -> float:
    """Returns the limit for the connections: of several workers, at most what meeting has left of the time to start."""
    began = os.environ.get(MEETING_BEGAN)
    if began is None:
        return SECONDS_TO_CONNECT
    left = SECONDS_TO_START - (time.monotonic() - float(began))
    return min(SECONDS_TO_CONNECT, max(LEAST_SECONDS_TO_CONNECT, left))


def _arrive(store: Store, ranks: Ranks) -> list[str]:
    """Waits until all ranks are here; returns the names of their machines, in rank order."""
    arrivals = PrefixStore("arrivals", store)
    keys = [str(rank) for rank in range(ranks.size)]
    arrivals.set(keys[ranks.rank], socket.gethostname())
    arrivals.wait(keys, _TIMEOUT)
    return [name.decode() for name in arrivals.multi_get(keys)]


@contextmanager
def _connecting(ranks: Ranks, hosts: list[str], backend: str) -> Iterator[None]:
    """Turns errors of the first connections within the block into `JobFailure`, or `PeerLost` if a rank has ended."""
    try:
        yield
    except RuntimeError as error:
        is_store = isinstance(error, distributed.DistStoreError | distributed.DistNetworkError)
        if is_store or any(text in str(error) for text in _ENDED):
            raise PeerLost(f"Another rank of the trainer has ended: {error}") from error
        raise _not_connected(ranks, hosts, backend, str(error).partition("\n")[0]) from error


def _waited(seconds: float) -> str:
    """Returns what this rank still waits for."""
    pending = unanswered()
    awaited = f"an answer from {', '.join(pending)}" if pending else "connections from the others"
    return f"it has waited {seconds:.0f} s for {awaited}"


def _not_connected(ranks: Ranks, hosts: list[str], backend: str, reason: str) -> JobFailure:
    """Returns the job failure for a rank that, for this reason, has no connection to the others."""
    interface = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
    message = (
        f"The {plural(ranks.size, 'process')} of the job on {', '.join(dict.fromkeys(hosts))} could not connect to "
        f"each other. Process {ranks.rank}, on {hosts[ranks.rank]}: {reason}. Open all TCP ports between these "
        "machines, or "
        f"set {interface} on each of their workers to the interface of the network that connects them"
    )
    return JobFailure(TrainerExit.dependency_down, "workers_not_connected", message)


def unanswered() -> list[str]:
    """Returns `address:port` of each peer that has not answered this process's request for a TCP connection."""
    own = set()
    for number in Path("/proc/self/fd").iterdir():
        try:
            own.add(os.readlink(number))
        except OSError:  # closed since then
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _SYN_SENT and f"socket:[{fields[9]}]" in own:
                found.append(_address(fields[2]))
    return sorted(found)


def _address(field: str) -> str:
    """Returns `address:port` of a field of /proc/net/tcp, which has the address as words in the machine's order."""
    words, _, port = field.partition(":")
    packed = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{int(port, 16)}"
