"""The tables of evals, their runs, and the rows of the runs with their results."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, Integer, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class EvalRunStatus(StrEnum):
    """OpenAI's vocabulary. A claim starts a queued run; a drain puts it back into the queue."""

    queued = "queued"
    in_progress = "in_progress"
    completed = "completed"
    failed = "failed"
    canceled = "canceled"


UNFINISHED: Final = (EvalRunStatus.queued, EvalRunStatus.in_progress)


class Eval(Base):
    """Criteria, and the schema of the rows that they apply to."""

    __tablename__ = "evals"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(256))
    data_source_config: Mapped[dict[str, Any]]
    testing_criteria: Mapped[list[dict[str, Any]]]
    labels: Mapped[dict[str, Any] | None]
    """The client's `metadata`, a name that SQLAlchemy reserves."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (Index("ix_evals_project_created", "project_id", "created_at", "id"),)


class EvalRun(Base):
    """One run of an eval. `claims` changes the status of a claimed run, `runs` that of all others."""

    __tablename__ = "eval_runs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    eval_id: Mapped[str] = mapped_column(ForeignKey("evals.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str] = mapped_column(String(64))
    """The API key that created the run; its usage of models counts for this key."""
    name: Mapped[str] = mapped_column(String(256))
    labels: Mapped[dict[str, Any] | None]
    """The client's `metadata`."""
    data_source: Mapped[dict[str, Any]]
    """As the client sent it, without the rows of `file_content`: `eval_rows` has them."""
    sampler: Mapped[dict[str, Any] | None]
    """`SamplerSpec` as JSON; None for a run that grades stored answers."""
    status: Mapped[str] = mapped_column(String(16), default=EvalRunStatus.queued)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """Claims since the last stored result; a claim that a drain ended is taken back."""
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then a worker holds the claim, or a queued run is not claimed (backoff); by the database's clock."""
    rows: Mapped[int] = mapped_column(Integer)
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the rows as JSON. Counts towards the project's `stored_bytes`."""
    rows_sha256: Mapped[str] = mapped_column(String(64))
    """Digest of all items in order. Only runs with equal rows can be compared."""
    totals: Mapped[dict[str, Any]]
    """`Totals` as JSON."""
    error: Mapped[dict[str, Any] | None]
    """`{"code", "message"}` of a failed run."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint("status IN ('queued', 'in_progress', 'completed', 'failed', 'canceled')", name="status"),
        CheckConstraint("(status IN ('queued', 'in_progress')) = (finished_at IS NULL)", name="finished_iff_terminal"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        Index("ix_eval_runs_eval", "eval_id", "created_at", "id"),
        Index("ix_eval_runs_project", "project_id"),
        Index("ix_eval_runs_unfinished", "created_at", postgresql_where="status IN ('queued', 'in_progress')"),
    )


class EvalRow(Base):
    """One row of a run: the item, and the result once it is known. The run needs its file no more."""

    __tablename__ = "eval_rows"

    run_id: Mapped[str] = mapped_column(ForeignKey("eval_runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    """Counts from 1, in the order of the data source."""
    item: Mapped[dict[str, Any]]
    given: Mapped[dict[str, Any] | None]
    """The data source's own `sample`."""
    status: Mapped[str | None] = mapped_column(String(8))
    """None until the row is finished."""
    sample: Mapped[dict[str, Any] | None]
    """`RowSample` as JSON."""
    results: Mapped[list[dict[str, Any]] | None]
    """`CriterionResult`s as JSON, in the order of the criteria."""
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint("status IN ('pass', 'fail', 'error')", name="status"),
        CheckConstraint("(status IS NULL) = (finished_at IS NULL)", name="finished_iff_status"),
        Index("ix_eval_rows_pending", "run_id", "number", postgresql_where="status IS NULL"),
    )
