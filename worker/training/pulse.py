"""Ends a process of a job when the others have been suspended or out of reach for too long.

A collective would wait for them for hours: a connection whose packets are lost, or whose other end is suspended, stays
open. So each process counts at the store of the agents. Process 0 watches all other counts, and the others watch that
of process 0: a network that carries no counts carries no gradients either.
"""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from app.core.spec.reports import TrainerExit
from worker.training.distributed import Ranks
from worker.training.types import JobFailure

BEAT_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 60.0
"""As long as a lease. A process that only waits, for a teacher perhaps, still counts."""


class Pulse:
    """The counts of the ranks, within a `with` block."""

    def __init__(self, store: Store, ranks: Ranks, hosts: Sequence[str], give_up: Callable[[JobFailure], None]) -> None:
        """`hosts` are the machines of the ranks. `give_up` must end the process."""
        # A connection of its own: another thread may wait at `store` for long.
        self._store = PrefixStore("pulse", store.clone())  # type: ignore[attr-defined]  # torch's stubs lack it
        self._own = ranks.rank
        self._hosts = hosts
        self._give_up = give_up
        watched = range(1, ranks.size) if ranks.rank == 0 else range(1)
        self._counts = dict.fromkeys(watched, 0)
        self._seen = dict.fromkeys(watched, time.monotonic())
        """When each count last changed."""
        self._over = threading.Event()
        # Two threads, because a request to the store has no timeout.
        self._threads = [threading.Thread(target=run, name="pulse", daemon=True) for run in (self._beat, self._watch)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(BEAT_SECONDS)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._store.add(str(self._own), 1)
                for rank, count in self._counts.items():
                    found = self._store.add(str(rank), 0)
                    if found != count:
                        self._counts[rank], self._seen[rank] = found, time.monotonic()
            except DistError:  # then no count changes
                continue

    def _watch(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            rank, seen = min(self._seen.items(), key=lambda one: one[1])
            if time.monotonic() - seen > SILENT_SECONDS:
                self._give_up(self._failure(rank))

    def _failure(self, rank: int) -> JobFailure:
        message = (
            f"Process {rank}, on {self._hosts[rank]}, has not answered process {self._own}, on "
            f"{self._hosts[self._own]}, for {SILENT_SECONDS:.0f} s: it is suspended, or the network between them is "
            "interrupted"
        )
        return JobFailure(TrainerExit.dependency_down, "worker_silent", message)
