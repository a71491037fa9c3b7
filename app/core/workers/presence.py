"""Who is there: workers write themselves down, all times by the database's clock. Decides nothing about jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.spec.hardware import Hardware
from app.core.workers.tables import Worker, WorkerState

TRAIN_QUEUE: Final = "train"
FORGOTTEN_AFTER_SECONDS: Final = 86_400.0
"""A worker that was killed is shown as lost for so long."""


@dataclass(frozen=True)
class Seen:
    """A worker, and whether it was heard of lately."""

    worker: Worker
    hardware: Hardware
    is_alive: bool

    @property
    def trains(self) -> bool:
        """Whether it would take a job."""
        return self.is_alive and self.worker.state == WorkerState.ready and TRAIN_QUEUE in self.worker.queues


def beat(
    session: Session, name: str, *, state: WorkerState, queues: Sequence[str], slots: int, hardware: Hardware
) -> None:
    """Says that the worker is there."""
    values = {"state": state, "queues": list(queues), "slots": slots, "hardware": hardware.model_dump(mode="json")}
    statement = insert(Worker).values(name=name, **values)
    session.execute(
        statement.on_conflict_do_update(index_elements=[Worker.name], set_=values | {"last_seen": func.now()})
    )


def leave(session: Session, name: str) -> None:
    """Says that the worker has ended."""
    session.execute(delete(Worker).where(Worker.name == name))


def forget_lost(session: Session) -> None:
    """Removes workers that have not been heard of for a day."""
    session.execute(delete(Worker).where(Worker.last_seen < _ago(FORGOTTEN_AFTER_SECONDS)))


def list_workers(session: Session, alive_seconds: float) -> list[Seen]:
    """All workers by name; those count as alive that were heard of in the last `alive_seconds`."""
    rows = session.execute(select(Worker, Worker.last_seen > _ago(alive_seconds)).order_by(Worker.name))
    return [Seen(worker, Hardware.model_validate(worker.hardware), alive) for worker, alive in rows]


def _ago(seconds: float) -> object:
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
