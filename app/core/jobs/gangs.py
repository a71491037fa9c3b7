"""Jobs over several workers: a claim takes all of their slots in one transaction, or none.

A worker that finds a job for several workers, but too few others, waits: it stores an idle slot and polls. Each poll
claims the best job for the slot at that moment, so an idle slot belongs to no job and priorities hold while it waits.
The poll that finds enough idle slots of the same kind takes them and leads the attempt; the others become its members.

No deadlock: a poll locks its own slot first, and takes only other slots and jobs that are not locked. Two claims
that take each other's slots both find too few, roll back, and poll again.

Workers hold an idle slot back from other jobs for at most `HOLD_SECONDS`, and then not again for `REST_SECONDS`. They
do so only for the first such job in the queue that the running workers could train.
"""

import secrets
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.jobs.controls import waits
from app.core.jobs.events import Event, append
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import AttemptMember, IdleSlot, Job
from app.core.plurals import plural

HOLD_SECONDS: Final = 60.0
"""Longest time for which a free slot takes no other job because a job for several workers is first in the queue."""
REST_SECONDS: Final = 300.0
"""After that, free slots take other jobs for this time."""
FRESH_SECONDS: Final = 5.0
"""An idle slot counts until this time after its last poll: its worker may be dead."""


@dataclass(frozen=True)
class Slot:
    """A slot of a worker that takes jobs over several workers."""

    worker: str
    kind: str
    """Only slots of the same kind train together: version, PyTorch build and device."""
    id: str


def new_slot(worker: str, kind: str) -> Slot:
    """Return a slot with an id of its own."""
    return Slot(worker, kind, secrets.token_hex(16))


def wait(session: Session, slot: Slot, gpus: int) -> None:
    """Store that the slot is idle, for `FRESH_SECONDS` from now."""
    values = {"worker": slot.worker, "kind": slot.kind, "gpus": gpus, "until": _in(FRESH_SECONDS)}
    statement = insert(IdleSlot).values(id=slot.id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[IdleSlot.id], set_=values))


def lock(session: Session, slot: Slot) -> bool:
    """Lock the slot until the transaction ends; return False if another worker's claim has taken it.

    Call it before the slot claims a job, so that it does not get two.
    """
    return session.scalar(select(IdleSlot.id).where(IdleSlot.id == slot.id).with_for_update()) is not None


def leave(session: Session, slot: Slot) -> bool:
    """Store that the slot no longer waits; return False if another worker's claim has taken it."""
    return session.scalar(delete(IdleSlot).where(IdleSlot.id == slot.id).returning(IdleSlot.id)) is not None


def take(session: Session, slot: Slot, gpus: int, count: int) -> list[IdleSlot] | None:
    """Remove and return `count` other idle slots of the same kind with enough GPUs; None if there are too few."""
    found = session.scalars(
        select(IdleSlot)
        .where(
            IdleSlot.id != slot.id,
            IdleSlot.kind == slot.kind,
            IdleSlot.gpus >= gpus,
            IdleSlot.until > func.now(),
        )
        .order_by(IdleSlot.until.desc(), IdleSlot.id)
        .limit(count)
        .with_for_update(skip_locked=True)
    ).all()
    if len(found) < count:
        return None
    session.execute(delete(IdleSlot).where(IdleSlot.id.in_([idle.id for idle in found])))
    return list(found)


def add_members(session: Session, job_id: str, attempt: int, slots: list[IdleSlot], lease_seconds: float) -> None:
    """Store the members of an attempt that has just been claimed; its own worker is node 0."""
    for node, idle in enumerate(slots, start=1):
        session.add(
            AttemptMember(
                job_id=job_id,
                attempt=attempt,
                node=node,
                worker=idle.worker,
                slot=idle.id,
                lease_until=_in(lease_seconds),
            )
        )
    session.flush()


def hold(session: Session, job_id: str) -> bool:
    """Return whether a slot waits for a job with too few idle slots instead of taking another job."""
    is_held, has_rested, was_held = (
        Job.held_at > _in(-HOLD_SECONDS),
        func.coalesce(Job.held_at < _in(-HOLD_SECONDS - REST_SECONDS), True),
        Job.held_at.is_not(None),
    )
    job = session.execute(
        select(Job.nodes, is_held.label("is_held"), has_rested.label("has_rested"), was_held.label("again")).where(
            Job.id == job_id
        )
    ).one()
    if not job.has_rested:
        return bool(job.is_held)
    began = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.queued, has_rested)
        .values(held_at=func.now())
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    )
    if began is not None and not job.again:
        append(session, job_id, Event(f"Waiting until {plural(job.nodes, 'worker')} are free at the same time"))
    return True


def idle_slots(session: Session, gpus: int, kind: str) -> int:
    """Return the number of idle slots of one kind with at least `gpus` GPUs."""
    fitting = (IdleSlot.kind == kind, IdleSlot.gpus >= gpus, IdleSlot.until > func.now())
    return session.scalar(select(func.count()).select_from(IdleSlot).where(*fitting)) or 0


def waiting_workers(session: Session) -> frozenset[str]:
    """Return the names of the workers that have an idle slot."""
    return frozenset(session.scalars(select(IdleSlot.worker).where(IdleSlot.until > func.now())))


def forget(session: Session) -> None:
    """Remove the slots of killed workers."""
    session.execute(delete(IdleSlot).where(IdleSlot.until < _in(-REST_SECONDS)))


def is_awaited(session: Session, gpus: int) -> bool:
    """Return whether an eligible job for several workers is queued that a slot with `gpus` GPUs could join."""
    eligible: tuple[ColumnElement[bool], ...] = (
        Job.status == JobStatus.queued,
        Job.nodes > 1,
        Job.gpus <= gpus,
        Job.eligible_at <= func.now(),
        ~waits(),
    )
    return session.scalar(select(select(Job.id).where(*eligible).exists())) is True


def _in(seconds: float) -> Any:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
