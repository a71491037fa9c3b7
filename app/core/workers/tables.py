"""Workers as they report themselves."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Integer, String, func
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class WorkerState(StrEnum):
    """What a worker says about itself."""

    ready = "ready"
    draining = "draining"
    """It shuts down: its jobs go back into the queue, and it takes no other."""
    quarantined = "quarantined"
    """Its GPU is broken: it takes no job until it is restarted."""


class Worker(Base):
    """A worker process, from its start to a moment after its end."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    """`<host>:<pid>`, as in the leases of its jobs."""
    state: Mapped[str] = mapped_column(String(16))
    queues: Mapped[list[str]]
    """Celery's; jobs are trained from `train`."""
    slots: Mapped[int] = mapped_column(Integer)
    """Tasks at once."""
    hardware: Mapped[dict[str, Any]]
    """`Hardware` as JSON."""
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    last_seen: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        CheckConstraint(f"state IN ({', '.join(repr(str(state)) for state in WorkerState)})", name="state"),
    )
