"""Which workers can take a job, by the resources that it requests, and why a job still waits for them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs.occupancy import occupied_slots
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.plurals import are, plural
from app.core.spec.hardware import Hardware
from app.core.spec.resources import Resources
from app.core.workers.presence import WorkerPresence, list_workers

_CODE: Final = "resources_not_available"
REPORTED_SECONDS: Final = 120.0
"""A worker that has not reported for so long is not named in the reason for a wait."""
_SHOWN: Final = 5
"""Workers that a message names."""


def hardware_for(resources: Resources, hardware: Hardware) -> Hardware | None:
    """Return the part of a worker's hardware that trains the job; None if the worker has too few GPUs for it."""
    if resources.gpus == "auto":
        return hardware
    return hardware.giving(resources.gpus) if hardware.gpus >= resources.gpus else None


def check(session: Session, resources: Resources, alive_seconds: float) -> None:
    """Raise `InvalidRequest` for resources that no worker offers. Without any worker the job waits for one."""
    workers = training_workers(session, alive_seconds)
    if not workers:
        return
    fitting = [worker for worker in workers if worker.hardware.gpus >= resources.least_gpus]
    if not fitting:
        most = max(worker.hardware.gpus for worker in workers)
        raise InvalidRequest(
            f"The job needs a worker with {plural(resources.least_gpus, 'GPU')}. {_offers(workers)} Request at most "
            f"{plural(most, 'GPU')}, or start a worker with more.",
            param="resources.gpus",
            code=_CODE,
        )
    if resources.nodes > 1 and resources.nodes > (most := max(slots_by_kind(fitting).values(), default=0)):
        fix = f"Request at most {plural(most, 'node')}" if most > 1 else "Request one node"
        raise InvalidRequest(
            f"The job needs {_nodes(resources)} of one kind. {_kinds(fitting)} {fix}, or start more workers.",
            param="resources.nodes",
            code=_CODE,
        )


def training_workers(session: Session, alive_seconds: float) -> list[WorkerPresence]:
    """Return the workers that train jobs, or whose replacements soon will."""
    return [worker for worker in list_workers(session, alive_seconds) if worker.may_train]


def slots_by_kind(workers: Sequence[WorkerPresence]) -> Counter[str]:
    """Return the number of slots of each kind of worker. Workers of earlier versions have no kind."""
    slots = Counter[str]()
    for worker in workers:
        if worker.worker.kind is not None:
            slots[worker.worker.kind] += worker.worker.slots
    return slots


def waiting_for(
    resources: Resources,
    workers: Sequence[WorkerPresence],
    prevented: Sequence[WorkerPresence],
    running: Mapping[str, int],
) -> str | None:
    """Return why no worker takes a queued job yet; None if any worker may take it.

    `workers` are those of `training_workers`, `prevented` those that have a problem, and `running` the numbers of jobs
    that they run, by name.
    """
    fitting = [worker for worker in workers if worker.hardware.gpus >= resources.least_gpus]
    problem = _problem([worker for worker in prevented if worker.hardware.gpus >= resources.least_gpus])
    if problem and not fitting:
        return f"No other worker {_with_gpus(resources)}runs. {problem}"
    if resources.least_gpus == 1 and resources.nodes == 1:
        return None
    if not fitting:
        return f"No worker with {plural(resources.least_gpus, 'GPU')} runs. {_offers(workers)}".strip()
    free = Counter[str]()
    for worker in fitting:
        free[worker.worker.kind or ""] += max(0, worker.worker.slots - running.get(worker.worker.name, 0))
    if resources.nodes == 1:
        return None if free.total() else f"All workers with {plural(resources.least_gpus, 'GPU')} are busy."
    slots = slots_by_kind(fitting)
    if (most := max(slots.values(), default=0)) < resources.nodes:
        return f"The job needs {_nodes(resources)} of one kind. {_kinds(fitting)} {problem}".strip()
    now = max(free[kind] for kind in slots)
    return f"The job needs {_nodes(resources)} at the same time. Of {most}, {now} {are(now)} free."


def waiting_reasons(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """Return job id -> why no worker takes it yet, of the queued jobs that not just any worker can take."""
    waiting = [job for job in jobs if job.status == JobStatus.queued]
    if not waiting:
        return {}
    found = list_workers(session, REPORTED_SECONDS)
    workers, prevented = ([one for one in found if one.may_train], [one for one in found if one.is_prevented])
    if not prevented and all(job.gpus == job.nodes == 1 for job in waiting):
        return {}
    running = Counter(slot.worker for slot in occupied_slots(session))
    reasons = {
        job.id: waiting_for(Resources(gpus=job.gpus, nodes=job.nodes), workers, prevented, running) for job in waiting
    }
    return {job_id: reason for job_id, reason in reasons.items() if reason is not None}


def _with_gpus(resources: Resources) -> str:
    # Any worker has one GPU or, without GPUs, one trainer process.
    return "" if resources.least_gpus == 1 else f"with {plural(resources.least_gpus, 'GPU')} "


def _problem(prevented: Sequence[WorkerPresence]) -> str:
    """Return a sentence about the workers that have a problem; empty without any."""
    if not prevented:
        return ""
    who = ", ".join(worker.worker.name for worker in prevented[:_SHOWN])
    return f"{who} cannot take jobs: {prevented[0].worker.problem}"


def _nodes(resources: Resources) -> str:
    gpus = _with_gpus(resources)
    return f"{plural(resources.nodes, 'worker')} {gpus}each" if gpus else plural(resources.nodes, "worker")


def _kinds(workers: Sequence[WorkerPresence]) -> str:
    kinds = slots_by_kind(workers).most_common(_SHOWN)
    if not kinds:
        return "No running worker trains together with others; update them."
    return f"Running: {'; '.join(f'{count} x {kind}' for kind, count in kinds)}."


def _offers(workers: Sequence[WorkerPresence]) -> str:
    """Return a sentence with the GPUs of each worker; a worker without GPUs offers trainer processes instead."""
    if not workers:
        return ""
    shown = ", ".join(f"{worker.worker.name} has {_offer(worker.hardware)}" for worker in workers[:_SHOWN])
    more = f", and {plural(len(workers) - _SHOWN, 'more worker')}" if len(workers) > _SHOWN else ""
    return f"Of the {plural(len(workers), 'worker')}, {shown}{more}." if len(workers) > 1 else f"{shown}."


def _offer(hardware: Hardware) -> str:
    if hardware.accelerator is None:
        return f"no GPU and {plural(hardware.processes, 'trainer process')}"
    return f"{hardware.accelerators} x {hardware.accelerator}"
