"""Presence of workers: they report at intervals, with times by the database's clock. Leases do not depend on it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.spec.hardware import Hardware
from app.core.workers.tables import Worker, WorkerState

TRAIN_QUEUE: Final = "train"
DEFAULT_QUEUE: Final = "default"
FORGOTTEN_AFTER_SECONDS: Final = 86_400.0
"""A killed worker is listed as lost for this time."""


@dataclass(frozen=True)
class WorkerPresence:
    """A worker, and whether it has reported lately."""

    worker: Worker
    hardware: Hardware
    is_alive: bool

    @property
    def trains(self) -> bool:
        """Whether the worker accepts jobs to train."""
        return self._serves(TRAIN_QUEUE) and self.worker.problem is None

    @property
    def may_train(self) -> bool:
        """Whether the worker trains jobs, or its replacement soon will."""
        return self._would_train and self.worker.problem is None

    @property
    def is_prevented(self) -> bool:
        """Whether the worker would train jobs but for its `problem`."""
        return self._would_train and self.worker.problem is not None

    @property
    def _would_train(self) -> bool:
        return self.is_alive and self.worker.state != WorkerState.quarantined and TRAIN_QUEUE in self.worker.queues

    @property
    def downloads(self) -> bool:
        """Whether the worker downloads base models that clients order."""
        return self._serves(DEFAULT_QUEUE)

    def _serves(self, queue: str) -> bool:
        return self.is_alive and self.worker.state == WorkerState.ready and queue in self.worker.queues


def beat(
    session: Session,
    name: str,
    *,
    state: WorkerState,
    queues: Sequence[str],
    slots: int,
    hardware: Hardware,
    trackers: Sequence[str] = (),
    kind: str | None = None,
    problem: str | None = None,
) -> None:
    """Report that the worker is alive."""
    values = {"state": state, "queues": list(queues), "slots": slots, "hardware": hardware.model_dump(mode="json")}
    values |= {"trackers": list(trackers), "kind": kind, "problem": problem}
    statement = insert(Worker).values(name=name, **values)
    session.execute(
        statement.on_conflict_do_update(index_elements=[Worker.name], set_=values | {"last_seen": func.now()})
    )


def leave(session: Session, name: str) -> None:
    """Report that the worker has ended: remove its row."""
    session.execute(delete(Worker).where(Worker.name == name))


def forget_lost(session: Session) -> None:
    """Remove workers that have not reported for a day."""
    session.execute(delete(Worker).where(Worker.last_seen < _ago(FORGOTTEN_AFTER_SECONDS)))


def list_workers(session: Session, alive_seconds: float) -> list[WorkerPresence]:
    """Return all workers by name. A worker is alive if it reported within the last `alive_seconds`."""
    rows = session.execute(select(Worker, Worker.last_seen > _ago(alive_seconds)).order_by(Worker.name))
    return [WorkerPresence(worker, Hardware.model_validate(worker.hardware), alive) for worker, alive in rows]


def training_slots(session: Session, kind: str, gpus: int, alive_seconds: float) -> int:
    """Return the slots, free or not, of the workers of one kind that have `gpus` GPUs and may train."""
    accelerators = Worker.hardware["accelerators"].as_integer()
    own_gpus = func.coalesce(func.nullif(accelerators, 0), Worker.hardware["processes"].as_integer())  # Hardware.gpus
    may_train = (  # WorkerPresence.may_train
        Worker.last_seen > _ago(alive_seconds),
        Worker.state != WorkerState.quarantined,
        Worker.queues.contains([TRAIN_QUEUE]),
        Worker.problem.is_(None),
    )
    slots = select(func.coalesce(func.sum(Worker.slots), 0)).where(Worker.kind == kind, own_gpus >= gpus, *may_train)
    return session.scalars(slots).one()


def available_trackers(session: Session, allowed: Collection[str], alive_seconds: float) -> frozenset[str]:
    """Return the trackers of `allowed` whose libraries a worker that trains has; all of them while that is unknown."""
    reports = [member.worker.trackers for member in list_workers(session, alive_seconds) if member.trains]
    if not reports or None in reports:
        return frozenset(allowed)
    return frozenset(allowed) & {name for report in reports for name in report or ()}


def _ago(seconds: float) -> object:
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
