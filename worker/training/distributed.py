"""Data-parallel training over ranks, one per GPU: each rank takes a share of a step's groups, gradients are summed.

Rank 0 is the process that the runner started. It starts the other ranks itself, and they rendezvous over a file in the
run directory, so no port is opened and no launcher stands between the runner and its trainer. The other ranks write
their reports to files; rank 0 forwards the report of a rank that fails before it exits.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import torch
from torch import distributed

from app.core.spec.reports import TrainerExit
from app.core.spec.subprocess_environment import PARENT_PID
from worker.training.out_of_memory import is_out_of_memory

RANK: Final = "GROUPTUNE_RANK"
_RENDEZVOUS: Final = "rendezvous"
_TIMEOUT: Final = timedelta(hours=6)
"""For collectives. Long, because the others wait while rank 0 waits for a teacher; `_exit_with` notices a dead rank at
once."""

_EXIT_SECONDS: Final = 10.0
"""Upper limit for rank 0 to notice that a rank ended; usually milliseconds after its connections close."""

Item = TypeVar("Item")


class PeerLost(Exception):
    """Another rank ended in the middle of a step. That rank reports the cause."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and the number of ranks. With one rank, nothing here communicates."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Returns this rank's share of `items`: every size-th, from its rank.

        Together the ranks take each item once.
        """
        return list(items[self.rank :: self.size])

    def sum(self, value: int) -> int:
        """Returns the sum over all ranks, on every rank."""
        return sum(self.gather(value))

    def sums(self, *values: int) -> tuple[int, ...]:
        """Returns the sum of each value over all ranks, on every rank, with one message."""
        return tuple(map(sum, zip(*self.gather(values), strict=True)))

    def gather(self, value: Item) -> list[Item]:
        """Returns the values of all ranks, in rank order, on every rank. Raises `PeerLost`."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _collective():
            distributed.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its sum over all ranks; a missing one counts as 0. Raises `PeerLost`.

        A sum and no mean: every rank has divided its loss by N of the whole step.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        # All ranks must reduce the same parameters in the same order. A rank whose groups had no contrast has no
        # gradients and contributes zeros.
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        # One message for all: LoRA has hundreds of small matrices, and each message costs a round trip.
        flat_N = torch.cat([gradient.flatten() for gradient in gradients])
        with _collective():
            distributed.all_reduce(flat_N)
        for parameter, summed_n in zip(parameters, flat_N.split([one.numel() for one in parameters]), strict=True):
            parameter.grad = summed_n.view_as(parameter)

    def await_end(self) -> None:
        """After `PeerLost`: waits for rank 0 to end all ranks, this one included."""
        threading.Event().wait(_EXIT_SECONDS)


def in_order(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """Returns the items of all ranks, as `Ranks.share` took them, in their first order."""
    size = len(shares)
    return [shares[number % size][number // size] for number in range(sum(map(len, shares)))]


@contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch raises nothing more specific for a closed connection
        if is_out_of_memory(error):
            raise
        raise PeerLost(f"Another rank of the trainer has ended: {error}") from error


def join(run_dir: Path, size: int, reports: TextIO) -> Ranks:
    """Joins a process group of `size` ranks and returns it. Rank 0 also starts the other ranks.

    If a rank dies, ranks that wait for it would hang, so rank 0 then ends the whole trainer: with the dead rank's own
    report and exit code, or as a crash. The report goes to `reports`.
    """
    if size == 1:
        return Ranks()
    rank = int(os.environ.get(RANK, "0"))
    if rank == 0:
        (run_dir / _RENDEZVOUS).unlink(missing_ok=True)
        for other in range(1, size):
            _start(run_dir, other, reports)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{run_dir / _RENDEZVOUS}",
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
    )
    return Ranks(rank, size)


def _start(run_dir: Path, rank: int, reports: TextIO) -> None:
    environment = os.environ | {RANK: str(rank), PARENT_PID: str(os.getpid())}
    report_path = run_dir / f"rank-{rank}.jsonl"
    # A file, not a pipe: a child of the rank that outlives it would keep a pipe open.
    with report_path.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "worker.training", str(run_dir)], env=environment, stdout=out)
    threading.Thread(
        target=_exit_with, args=(process, rank, report_path, reports), name=f"rank-{rank}", daemon=True
    ).start()


def _exit_with(process: "subprocess.Popen[bytes]", rank: int, report_path: Path, reports: TextIO) -> None:
    """Waits for a rank to end. If it failed, forwards its report and ends this process with its exit code."""
    # Ranks succeed or stop on request together. Any other end strands the other ranks in a collective.
    code = process.wait()
    if code in (TrainerExit.succeeded, TrainerExit.stopped):
        return
    reports.write(report_path.read_text(encoding="utf-8"))
    reports.flush()
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    sys.stderr.write(f"Process {rank} of the trainer {ending}\n")
    sys.stderr.flush()
    os._exit(max(1, code))  # a killed rank has a negative code, which becomes 1: a crash
