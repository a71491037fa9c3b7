"""Workers on the wire."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item
from app.core.jobs.queries import WorkerJobs
from app.core.workers.tables import WorkerState


class WorkerStatus(StrEnum):
    """What a worker does."""

    idle = "idle"
    busy = "busy"
    draining = "draining"
    quarantined = "quarantined"
    lost = "lost"


class HardwareObject(BaseModel):
    """What a worker trains on."""

    device: str = Field(description="What jobs that were trained alike have in common; estimates are fitted by it.")
    accelerator: str | None = Field(description="Name of its GPUs; null when it trains on the CPU.")
    accelerators: int
    accelerator_memory_bytes: int | None = Field(description="Of one GPU.")
    processor: str
    cores: int = Field(description="That the worker may use.")
    threads: int = Field(description="Of a trainer on the CPU.")
    processes: int = Field(description="That train a job together, one a GPU.")
    memory_bytes: int = Field(description="Of the machine or the container.")


class WorkerObject(Item):
    """A worker process."""

    object: Literal["worker"] = "worker"
    status: WorkerStatus = Field(
        description="`lost`: not heard of for longer than a lease; forgotten after a day. `quarantined`: its GPU is "
        "broken, and it takes no job until it is restarted."
    )
    queues: list[str] = Field(description="Jobs are trained by those with `train`.")
    slots: int = Field(description="Tasks that it runs at once.")
    running_jobs: int = Field(description="Of all projects.")
    jobs: list[str] = Field(description="Ids of those that are this project's.")
    hardware: HardwareObject
    started_at: int = Field(description="Unix seconds.")
    last_seen: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, member: WorkerJobs) -> "WorkerObject":
        """The wire form."""
        worker, hardware = member.seen.worker, member.seen.hardware
        return cls(
            id=worker.name,
            status=_status(member),
            queues=worker.queues,
            slots=worker.slots,
            running_jobs=member.running,
            jobs=list(member.own_jobs),
            hardware=HardwareObject.model_validate({"device": hardware.device, **hardware.model_dump()}),
            started_at=int(worker.started_at.timestamp()),
            last_seen=int(worker.last_seen.timestamp()),
        )


def _status(member: WorkerJobs) -> WorkerStatus:
    if not member.seen.is_alive:
        return WorkerStatus.lost
    if (state := member.seen.worker.state) != WorkerState.ready:
        return WorkerStatus(state)
    return WorkerStatus.busy if member.running else WorkerStatus.idle
