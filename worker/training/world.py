"""The processes that train one job together, one a GPU: each takes a share of a step's groups, the gradient is summed.

Rank 0 is the trainer that the runner started; it starts the others itself and they meet over a file in the run
directory, so that no port is opened and no launcher stands between the runner and its trainer.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import distributed

from app.core.spec.reports import TrainerExit

RANK: Final = "GROUPTUNE_RANK"
_MEETING_POINT: Final = "rendezvous"
_PATIENCE: Final = timedelta(hours=6)
"""The others wait while rank 0 evaluates; a rank that died is noticed at once, in another way."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
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
        """Every process's value, by rank, in all processes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces each gradient by the sum over all processes; a missing one counts as 0."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


def join(run_dir: Path, size: int) -> World:
    """Enters the world of `size` processes; as rank 0 also starts the others.

    When one of them dies the rank that waits for it would hang, so rank 0 then ends the whole trainer as a crash.
    """
    if size == 1:
        return World()
    rank = int(os.environ.get(RANK, "0"))
    if rank == 0:
        (run_dir / _MEETING_POINT).unlink(missing_ok=True)
        for other in range(1, size):
            _start(run_dir, other)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{run_dir / _MEETING_POINT}",
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    return World(rank, size)


def _start(run_dir: Path, rank: int) -> None:
    environment = os.environ | {RANK: str(rank), "GROUPTUNE_PARENT_PID": str(os.getpid())}
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.training", str(run_dir)], env=environment, stdout=subprocess.DEVNULL
    )
    threading.Thread(target=_end_with, args=(process,), name=f"rank-{rank}", daemon=True).start()


def _end_with(process: "subprocess.Popen[bytes]") -> None:
    # A rank that succeeds or stops as asked does so together with all others; anything else strands them.
    code = process.wait()
    if code not in (TrainerExit.succeeded, TrainerExit.stopped):
        os._exit(max(1, code))  # a rank that knew why it ended keeps its exit code; a signal's number is negative
