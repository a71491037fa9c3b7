"""What a simulation holds in memory: machines, attempts in progress, and what it measures."""

from dataclasses import dataclass, field
from typing import Final

from app.core.jobs.gangs import Slot
from app.core.jobs.leases import Claim
from bench.simulate.workload import PlannedJob

CHECKPOINT_SECONDS: Final = 600.0
LOAD_SECONDS: Final = 60.0
"""Time from a claim to the first step."""


@dataclass
class Machine:
    """A worker with its GPUs."""

    name: str
    gpus: int
    is_up: bool = True
    run: "Run | None" = None
    slot: Slot | None = None
    """While it waits for a job over several workers."""


@dataclass
class Run:
    """An attempt in progress."""

    job: PlannedJob
    claim: Claim
    machines: list[Machine]
    """The leader first."""
    began: float
    done: float
    """Seconds of training that earlier attempts have saved."""
    ends: float
    is_stopping: bool = False
    is_broken: bool = False
    """A machine has died; the others lose the job when the lease expires."""

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.job.gpus * self.job.nodes

    def trained(self, now: float) -> float:
        """Return the seconds of training so far."""
        return self.done + max(0.0, now - self.began - LOAD_SECONDS)

    def saved(self, now: float) -> float:
        """Return the seconds of training in the last checkpoint."""
        return max(self.done, self.trained(now) // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS)


@dataclass
class Sample:
    """The cluster at one moment."""

    hours: float
    queued: int
    used_gpus: int
    held_gpus: int
    """Of workers that run a job; the job may use fewer."""
    up_gpus: int


@dataclass
class Measured:
    """What a simulation measures. GPU time is in seconds."""

    claim_ms: list[float] = field(default_factory=list)
    empty_claim_ms: list[float] = field(default_factory=list)
    sweep_ms: list[float] = field(default_factory=list)
    waits: dict[int, float] = field(default_factory=dict)
    """Job -> seconds from its creation to its first claim."""
    samples: list[Sample] = field(default_factory=list)
    failures: int = 0
    preemptions: int = 0
    useful: float = 0.0
    repeated: float = 0.0
    """Training after the last checkpoint of an attempt that ended early."""
    starting: float = 0.0
    """Between a claim and the first step."""
    lost: float = 0.0
    """Between a worker's death and the end of its lease."""
    succeeded: int = 0
    failed: int = 0
    hours: float = 0.0
