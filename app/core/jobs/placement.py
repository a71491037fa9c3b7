"""Which workers can take a job, by the GPUs that it requests."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.plurals import plural
from app.core.spec.hardware import Hardware
from app.core.spec.resources import Resources
from app.core.workers.presence import WorkerPresence, list_workers

_CODE: Final = "resources_not_available"
_SHOWN: Final = 5
"""Workers that a message names."""


def hardware_for(resources: Resources, hardware: Hardware) -> Hardware | None:
    """Return the part of a worker's hardware that trains the job; None if the worker has too few GPUs for it."""
    if resources.gpus == "auto":
        return hardware
    return hardware.giving(resources.gpus) if hardware.gpus >= resources.gpus else None


def check(session: Session, resources: Resources, alive_seconds: float) -> None:
    """Raise `InvalidRequest` for resources that no worker offers. Without any worker the job waits for one."""
    if resources.nodes > 1:
        message = "Jobs over several workers are not supported yet. Set nodes to 1, and gpus to the GPUs of one worker."
        raise InvalidRequest(message, param="resources.nodes", code=_CODE)
    workers = [worker for worker in list_workers(session, alive_seconds) if worker.may_train]
    if not workers or any(hardware_for(resources, worker.hardware) is not None for worker in workers):
        return
    most = max(worker.hardware.gpus for worker in workers)
    raise InvalidRequest(
        f"The job needs a worker with {plural(resources.least_gpus, 'GPU')}. {offers(workers)} Request at most "
        f"{plural(most, 'GPU')}, or start a worker with more.",
        param="resources.gpus",
        code=_CODE,
    )


def offers(workers: Sequence[WorkerPresence]) -> str:
    """Return a sentence with the GPUs of each worker; a worker without GPUs offers trainer processes instead."""
    shown = ", ".join(f"{worker.worker.name} has {_offer(worker.hardware)}" for worker in workers[:_SHOWN])
    more = f", and {plural(len(workers) - _SHOWN, 'more worker')}" if len(workers) > _SHOWN else ""
    return f"Of the {plural(len(workers), 'worker')}, {shown}{more}." if len(workers) > 1 else f"{shown}."


def _offer(hardware: Hardware) -> str:
    if hardware.accelerator is None:
        return f"no GPU and {plural(hardware.processes, 'trainer process')}"
    return f"{hardware.accelerators} x {hardware.accelerator}"
