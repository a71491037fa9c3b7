"""The fleet and the jobs of a simulation. What is published is cited; the rest is an assumption and stated as one."""

import math
import random
from dataclasses import dataclass
from typing import Final

DAY: Final = 86_400.0

FAILURES_PER_MACHINE_DAY: Final = 419 / 54 / 2048
"""Unexpected interruptions of Llama 3's pre-training: 419 in 54 days on 2,048 machines of 8 GPUs (arXiv 2407.21783)."""
REPAIR_SECONDS: Final = 3_600.0
"""Mean time until a failed machine is back. An assumption."""

JOB_SIZES: Final = {(1, 1): 0.70, (4, 1): 0.18, (8, 1): 0.08, (8, 2): 0.02, (8, 4): 0.01, (8, 8): 0.006, (8, 16): 0.004}
"""(GPUs of each worker, workers) -> share of the jobs. An assumption: most jobs are small, as in published traces."""
MEDIAN_SECONDS: Final = 2_400.0
SPREAD: Final = 1.3
LONGEST_SECONDS: Final = DAY
"""Training time is log-normal and at most a day, so the mean is about twice the median. An assumption."""
URGENT_SHARE: Final = 0.05
URGENT_PRIORITY: Final = 10


@dataclass(frozen=True)
class Fleet:
    """The workers of a cluster."""

    kinds: dict[int, int]
    """GPUs of a worker -> number of such workers."""
    failures_per_day: float = FAILURES_PER_MACHINE_DAY
    """Of each worker."""

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return sum(gpus * count for gpus, count in self.kinds.items())


@dataclass(frozen=True)
class PlannedJob:
    """A job of the workload, before it is created."""

    number: int
    project: int
    created: float
    """Seconds since the start."""
    seconds: float
    """Training time on the resources that it requests."""
    gpus: int
    nodes: int
    priority: int

    @property
    def work(self) -> float:
        """GPU seconds."""
        return self.seconds * self.gpus * self.nodes


def plan(count: int, fleet: Fleet, *, projects: int, load: float, seed: int) -> list[PlannedJob]:
    """Return `count` jobs in the order of their creation.

    Their work is `load` times what the fleet can do while they arrive, so with a load above 1 queues grow. Half of the
    jobs belong to the first project, which creates them all at the start; the others create theirs at random times.
    """
    numbers = random.Random(seed)  # noqa: S311 - a repeatable plan
    sizes, shares = zip(*((size, share) for size, share in JOB_SIZES.items() if _fits(size, fleet)), strict=True)
    drawn = [
        (
            min(LONGEST_SECONDS, MEDIAN_SECONDS * math.exp(SPREAD * numbers.gauss(0, 1))),
            *numbers.choices(sizes, shares)[0],
            URGENT_PRIORITY if numbers.random() < URGENT_SHARE else 0,
        )
        for _ in range(count)
    ]
    work = sum(seconds * gpus * nodes for seconds, gpus, nodes, _ in drawn)
    span = work / (load * fleet.gpus)
    jobs = []
    for number, (seconds, gpus, nodes, priority) in enumerate(drawn):
        project = 0 if number % 2 == 0 else 1 + number // 2 % (projects - 1)
        created = 0.0 if project == 0 else numbers.uniform(0, span)
        jobs.append(PlannedJob(number, project, created, seconds, gpus, nodes, priority))
    return sorted(jobs, key=lambda job: (job.created, job.number))


def _fits(size: tuple[int, int], fleet: Fleet) -> bool:
    gpus, nodes = size
    return sum(count for kind, count in fleet.kinds.items() if kind >= gpus) >= nodes
