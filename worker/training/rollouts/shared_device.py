"""vLLM servers on the trainer's own devices: they sleep, without their memory, except while the job samples."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from worker.training.distributed import Ranks
from worker.training.rollouts.vllm_client import VllmClient


@dataclass(frozen=True)
class SharedDevice:
    """The devices of one worker, which its ranks share with `clients`' servers. All ranks must call each method."""

    clients: Sequence[VllmClient]
    ranks: Ranks
    ranks_of_worker: int

    def vacate(self) -> None:
        """Checks that the servers can sleep, and puts them to sleep. Raises `JobFailure` and `PeerLost`."""
        self._once(VllmClient.check_can_sleep)
        self.sleep()

    def sleep(self) -> None:
        """Puts the servers to sleep once no rank samples any more. Raises `JobFailure` and `PeerLost`."""
        self._once(VllmClient.sleep)

    def wake_up(self) -> None:
        """Wakes the servers once all ranks have freed their caches. Raises `JobFailure` and `PeerLost`."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # activations of the last update
        self._once(VllmClient.wake_up)

    def _once(self, change: Callable[[VllmClient], None]) -> None:
        """Calls `change` for all servers of this worker, from one of its ranks, while the others wait."""
        self.ranks.meet()
        if self.ranks.rank % self.ranks_of_worker == 0:
            with ThreadPoolExecutor(len(self.clients), "server") as threads:
                list(threads.map(change, self.clients))
        self.ranks.meet()
