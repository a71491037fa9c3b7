"""The processes that train one job together, one a GPU: each takes a share of a step's groups, the gradient is summed.

Rank 0 is the trainer that the runner started; it starts the others itself and they meet over a file in the run
directory, so that no port is opened and no launcher stands between the runner and its trainer. What another rank has to
say about its end it leaves in a file; rank 0 hands that on before it ends.
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
from worker.training.out_of_memory import is_out_of_memory

RANK: Final = "GROUPTUNE_RANK"
_MEETING_POINT: Final = "rendezvous"
_PATIENCE: Final = timedelta(hours=6)
"""The others wait while rank 0 evaluates; a rank that died is noticed at once, in another way."""

_VERDICT_SECONDS: Final = 10.0
"""From the moment a rank's connections close until rank 0 has seen it end: milliseconds."""

Item = TypeVar("Item")


class PeerLost(Exception):
    """Another process ended in the middle of a step; what went wrong is its to say."""


@dataclass(frozen=True)
class Ranks:
    """Rank and number of the processes. With one, nothing here communicates."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """What falls to this process; together the processes take each item once."""
        return list(items[self.rank :: self.size])

    def sum(self, value: int) -> int:
        """The sum over all processes."""
        return sum(self.gather(value))

    def gather(self, value: Item) -> list[Item]:
        """Every process's value, by rank, in all processes. Raises `PeerLost`."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _talking():
            distributed.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by the sum over all processes; a missing one counts as 0. Raises `PeerLost`."""
        if self.size == 1:
            return
        with _talking():
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)

    def await_end(self) -> None:
        """After `PeerLost`: waits for rank 0 to end the whole trainer, with this process in it."""
        threading.Event().wait(_VERDICT_SECONDS)


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that torch raises for a closed connection
        if is_out_of_memory(error):
            raise
        raise PeerLost(f"Another process of the trainer is gone: {error}") from error


def join(run_dir: Path, size: int, reports: TextIO) -> Ranks:
    """Enters the ranks of `size` processes; as rank 0 also starts the others.

    When one of them dies the rank that waits for it would hang, so rank 0 then ends the whole trainer: as a crash, or
    as the failure that the other one reported, which goes to `reports`.
    """
    if size == 1:
        return Ranks()
    rank = int(os.environ.get(RANK, "0"))
    if rank == 0:
        (run_dir / _MEETING_POINT).unlink(missing_ok=True)
        for other in range(1, size):
            _start(run_dir, other, reports)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{run_dir / _MEETING_POINT}",
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    return Ranks(rank, size)


def _start(run_dir: Path, rank: int, reports: TextIO) -> None:
    environment = os.environ | {RANK: str(rank), "GROUPTUNE_PARENT_PID": str(os.getpid())}
    said = run_dir / f"rank-{rank}.jsonl"
    # A file, not a pipe: a process that it started and that outlives it would keep a pipe open.
    with said.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "worker.training", str(run_dir)], env=environment, stdout=out)
    threading.Thread(target=_end_with, args=(process, rank, said, reports), name=f"rank-{rank}", daemon=True).start()


def _end_with(process: "subprocess.Popen[bytes]", rank: int, said: Path, reports: TextIO) -> None:
    # A rank that succeeds or stops as asked does so together with all others; anything else strands them.
    code = process.wait()
    if code in (TrainerExit.succeeded, TrainerExit.stopped):
        return
    reports.write(said.read_text(encoding="utf-8"))
    reports.flush()
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    sys.stderr.write(f"Process {rank} of the trainer {ending}\n")
    sys.stderr.flush()
    os._exit(max(1, code))  # a rank that knew why it ended keeps its exit code
