"""Bodies of `/v1/workers`."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from app.api.pagination import Item
from app.core.jobs.worker_jobs import WorkerJobs
from app.core.spec.described import Described
from app.core.workers.tables import WorkerState


class WorkerStatus(StrEnum):
    """The state of a worker."""

    idle = "idle"
    busy = "busy"
    draining = "draining"
    quarantined = "quarantined"
    lost = "lost"


class HardwareObject(Described):
    """The hardware that a worker trains on."""

    device: str = Field(description="Identifies comparable hardware; estimates are calibrated by it.")
    accelerator: str | None = Field(description="Name of the GPUs; null if the worker trains on the CPU.")
    accelerators: int
    """Number of GPUs."""
    accelerator_memory_bytes: int | None = Field(description="Memory of one GPU.")
    processor: str
    """Name of the CPU."""
    cores: int = Field(description="CPU cores that the worker may use.")
    threads: int = Field(description="CPU threads of one trainer.")
    processes: int = Field(description="Processes that train a job together, one per GPU.")
    memory_bytes: int = Field(description="Memory of the machine or the container.")


class WorkerObject(Item):
    """A worker process."""

    object: Literal["worker"] = "worker"
    status: WorkerStatus = Field(
        description="`lost`: no heartbeat for longer than a lease; removed after a day. `quarantined`: its GPU is "
        "faulty, and it takes no jobs until it is restarted."
    )
    reason: str | None = Field(
        description="Why the worker, although it is ready, takes no job, or no other one; null for other workers."
    )
    queues: list[str] = Field(description="Workers with the queue `train` train jobs.")
    slots: int = Field(description="Number of tasks that it runs at once.")
    running_jobs: int = Field(description="Running jobs of all projects.")
    jobs: list[str] = Field(description="Ids of this project's jobs on the worker.")
    hardware: HardwareObject
    """The hardware that it trains on."""
    started_at: int = Field(description="Unix seconds.")
    last_seen: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, member: WorkerJobs) -> "WorkerObject":
        """Return the wire form."""
        worker, hardware = member.presence.worker, member.presence.hardware
        return cls(
            id=worker.name,
            status=_status(member),
            reason=member.reason,
            queues=worker.queues,
            slots=worker.slots,
            running_jobs=member.running,
            jobs=list(member.own_jobs),
            hardware=HardwareObject.model_validate({"device": hardware.device, **hardware.model_dump()}),
            started_at=int(worker.started_at.timestamp()),
            last_seen=int(worker.last_seen.timestamp()),
        )


def _status(member: WorkerJobs) -> WorkerStatus:
    if not member.presence.is_alive:
        return WorkerStatus.lost
    if (state := member.presence.worker.state) != WorkerState.ready:
        return WorkerStatus(state)
    return WorkerStatus.busy if member.running else WorkerStatus.idle
