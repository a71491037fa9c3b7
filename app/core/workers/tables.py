"""Workers as they report themselves, and the sweeps that they share."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Integer, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class WorkerState(StrEnum):
    """The state that a worker reports."""

    ready = "ready"
    draining = "draining"
    """The worker shuts down: its jobs are queued again, and it claims no more jobs."""
    quarantined = "quarantined"
    """The GPU is broken: the worker claims no jobs until it is restarted."""


class Worker(Base):
    """A worker process. Its row is removed when it ends, or a day after it was killed."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    """`<host>:<pid>`, as in the leases of its jobs."""
    state: Mapped[str] = mapped_column(String(16))
    queues: Mapped[list[str]]
    """Celery queues. Workers with the queue `train` train jobs."""
    slots: Mapped[int] = mapped_column(Integer)
    """Number of tasks that it runs at once."""
    hardware: Mapped[dict[str, Any]]
    """`Hardware` as JSON."""
    trackers: Mapped[list[str] | None]
    """Trackers that are allowed and whose libraries are installed; None for a worker of version 0.1."""
    kind: Mapped[str | None] = mapped_column(Text)
    """Version, PyTorch build and device: only workers of one kind train a job together. None for earlier versions."""
    problem: Mapped[str | None] = mapped_column(Text)
    """Why it takes no jobs although it is ready, and how to fix that; None if nothing prevents it."""
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    last_seen: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        CheckConstraint(f"state IN ({', '.join(repr(str(state)) for state in WorkerState)})", name="state"),
    )


class Sweep(Base):
    """The last run of a periodic task, which any worker may run."""

    __tablename__ = "sweeps"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    worker: Mapped[str] = mapped_column(String(255))
    """The worker that ran it, as in `Worker.name`."""
