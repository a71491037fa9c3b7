"""Data-parallel training over ranks, one per GPU: each rank takes a share of a step's groups, gradients are summed."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import distributed

from worker.training.out_of_memory import is_out_of_memory

SECONDS_TO_END: Final = 10
"""After one rank has failed, the others are killed this long after SIGTERM. On a GPU they may wait for it forever."""

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

    def meet(self) -> None:
        """Waits until all ranks are here. Raises `PeerLost`."""
        self.gather(None)

    def sum(self, value: int) -> int:
        """Returns the sum over all ranks, on every rank."""
        return sum(self.gather(value))

    def sums(self, *values: int) -> tuple[int, ...]:
        """Returns the sum of each value over all ranks, on every rank, with one message."""
        return tuple(map(sum, zip(*self.gather(values), strict=True)))

    def maximum(self, value: int) -> int:
        """Returns the largest value of all ranks, on every rank. Raises `PeerLost`.

        Faster than `gather`: one small tensor and no pickle.
        """
        if self.size == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        largest = torch.tensor(value, device=device)
        with _collective():
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

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


@contextmanager
def lost_peers() -> Iterator[None]:
    """Turns the errors of torch's own collectives within the block into `PeerLost`; leaves every other error."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no type of its own; its messages begin with the place in its sources.
        if isinstance(error, distributed.DistError) or "gloo/transport" in str(error):
            raise PeerLost(f"Another rank of the trainer has ended: {error}") from error
        raise
