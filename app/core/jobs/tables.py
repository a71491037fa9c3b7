"""Jobs, their attempts, events, metrics, groups and checkpoints."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base
from app.core.jobs.state_machine import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    STORED_STOP_REQUESTS,
    AttemptOutcome,
    JobStatus,
)


def _one_of(column: str, values: Iterable[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class Job(Base):
    """A job. Its status changes only through `transitions` and `leases.claim`, guarded by status and attempt."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(String(16), default=JobStatus.validating_files)
    spec: Mapped[dict[str, Any]]
    """`JobSpec` as JSON; each `auto` stays as the client sent it."""
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    test_file: Mapped[str | None] = mapped_column(String(64))
    """The rows that report; without it half of the validation file's do."""
    priority: Mapped[int] = mapped_column(Integer, default=0)
    control_of: Mapped[str | None] = mapped_column(String(64))
    """The job whose control this job is: that job starts when this one has ended. None for a job that is no control."""
    gpus: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))
    """`Resources.least_gpus` of the spec: workers with fewer GPUs do not claim the job."""
    nodes: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))
    """`Resources.nodes` of the spec."""
    held_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When free workers began to wait for this job, which needs several; see `gangs.hold`."""

    attempt: Mapped[int] = mapped_column("epoch", Integer, default=0)
    """Number of the newest attempt and fencing token: each claim adds one, and every write of an attempt checks it."""
    lease_owner: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    stop_request: Mapped[str | None] = mapped_column(String(16))
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    """Crashed attempts since the last progress."""
    eligible_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    """The job is not claimed before this time (backoff)."""
    waiting_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When a dependency failed for the first time since the last progress."""
    failing_rows: Mapped[dict[str, Any] | None]
    """Line of the training file -> attempts since the last progress in which a dependency failed on it."""

    step: Mapped[int] = mapped_column(Integer, default=0)
    total_steps: Mapped[int | None] = mapped_column(Integer)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    hyperparameters: Mapped[dict[str, Any] | None]
    """Resolved values once running: batch_size, learning_rate_multiplier, n_epochs."""
    teacher_usage: Mapped[dict[str, Any] | None]
    """`Spent` as JSON once the job has used its teacher."""
    evaluation: Mapped[dict[str, Any] | None]
    """`{"before": {...}, "after": {...}, "history": [...]}`: results on the rows that report, which select nothing, and
    the evaluations during training, which select the adapter. In jobs of earlier versions one set of rows does both."""
    evaluation_samples: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    """Sample answers by the part of `evaluation`. Large, so they are loaded only on access. Jobs of earlier versions
    have them in `evaluation`."""
    evaluation_rows: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    """`RowResults` as JSON of the parts `before` and `after` of `evaluation`, and the lines of the rows that select as
    `selection`. Large, so loaded only on access."""
    verdict: Mapped[str | None] = mapped_column(String(16))
    """`Verdict` once training is finished; None before, and if `comparison` gives a reason for having none."""
    comparison: Mapped[dict[str, Any] | None]
    """`Comparison` as JSON once training is finished."""
    control_comparison: Mapped[dict[str, Any] | None]
    """`ControlComparison` as JSON once training is finished; None before, and without a control."""
    fine_tuned_model: Mapped[str | None] = mapped_column(String(255))
    result_files: Mapped[list[str]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    """Ids of the files that a succeeded job wrote. A client may have deleted them."""
    gates: Mapped[list[dict[str, Any]] | None]
    """`GateResult` of each gate once training is finished; None before, and without gates."""
    error: Mapped[dict[str, Any] | None]
    """`{"code", "message", "param"}` of a failed job."""
    lint: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    """`LintReport` on the training file as JSON, once a worker has made it. Large, so it is loaded only on access."""
    lint_due: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """Whether a worker still has to lint the training file."""
    lint_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then a worker has claimed the lint, by the database's clock."""
    row_checks: Mapped[dict[str, Any] | None]
    """Keys of the `RowCheck`s that the job waits for, by the field of the file."""
    rows: Mapped[dict[str, Any] | None]
    """`{"rows": {"used", "dropped"}, "held_out_rows": ..., "test_rows": ...}` once the rows are checked. None without
    checks."""
    demonstrations: Mapped[dict[str, Any] | None]
    """`GradedDemonstrations` as JSON once a worker grades the demonstrations. None for jobs that train all of them."""
    rejected_lines: Mapped[list[int] | None] = mapped_column(JSONB, deferred=True)
    """Lines of the training file whose demonstration is not trained. May be large, so loaded only on access."""
    training_path: Mapped[dict[str, Any] | None]
    """`TrainingPath` as JSON once a worker has loaded the model."""
    estimate: Mapped[dict[str, Any] | None]
    """`Estimate` as JSON, made when the job is created or claimed; None while its files or its model are unknown."""
    measured: Mapped[dict[str, Any] | None]
    """`Measured` as JSON: the measured time and memory of a job that trained to its end."""

    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def files(self) -> dict[str, str]:
        """The ids of its data files by field."""
        fields = ("training_file", "validation_file", "test_file")
        return {field: file_id for field in fields if (file_id := getattr(self, field)) is not None}

    __table_args__ = (
        CheckConstraint(_one_of("status", JobStatus), name="status"),
        CheckConstraint(_one_of("stop_request", STORED_STOP_REQUESTS), name="stop_request"),
        CheckConstraint("verdict IN ('improved', 'no_change', 'worse')", name="verdict"),
        CheckConstraint(f"priority BETWEEN {MIN_PRIORITY} AND {MAX_PRIORITY}", name="priority"),
        CheckConstraint("(status = 'running') = (lease_owner IS NOT NULL)", name="lease_iff_running"),
        CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="lease_whole"),
        CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="finished_iff_terminal",
        ),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        CheckConstraint("(status = 'succeeded') = (fine_tuned_model IS NOT NULL)", name="model_iff_succeeded"),
        Index("ix_jobs_project_created", "project_id", "created_at", "id"),
        Index(
            "ix_jobs_turn",
            text("priority DESC"),
            *("eligible_at", "created_at", "id"),
            postgresql_where="status = 'queued'",
        ),
        Index(
            "ix_jobs_project_turn",
            "project_id",
            text("priority DESC"),
            *("eligible_at", "created_at", "id"),
            postgresql_where="status = 'queued'",
        ),
        # A job has at most one control.
        Index("ix_jobs_control_of", "control_of", unique=True, postgresql_where="control_of IS NOT NULL"),
        Index("ix_jobs_lease", "lease_until", postgresql_where="status = 'running'"),
        Index("ix_jobs_lint_due", "created_at", postgresql_where="lint_due"),
        Index("ix_jobs_validating", "created_at", postgresql_where="status = 'validating_files'"),
        Index("ix_jobs_measured", "finished_at", postgresql_where="measured IS NOT NULL"),
    )


class RowCheck(Base):
    """The check of a file's rows for a model and settings; see `row_checks`. Jobs with the same key share it."""

    __tablename__ = "row_checks"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    request: Mapped[dict[str, Any]]
    """`CheckRequest` as JSON."""
    result: Mapped[dict[str, Any] | None]
    """`CheckResult` as JSON; None until the check is made."""
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then a worker has claimed the check, by the database's clock."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (Index("ix_row_checks_due", "created_at", postgresql_where="result IS NULL"),)


class JobAttempt(Base):
    """One claim of a job by one worker."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column("epoch", Integer, primary_key=True)
    worker: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    resumed_from_step: Mapped[int] = mapped_column(Integer, default=0)
    device: Mapped[str | None] = mapped_column(String(255))
    """`Hardware.device` of the worker."""
    processes: Mapped[int] = mapped_column(Integer, default=1, server_default=text("1"))
    """Number of processes that train together, one per GPU, on all workers."""
    rendezvous: Mapped[str | None] = mapped_column(String(255))
    """`host:port` at which the trainers of several workers meet; None before, and for one worker."""
    training_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When the first step began, after the model was loaded."""

    __table_args__ = (CheckConstraint(_one_of("outcome", AttemptOutcome), name="outcome"),)


class AttemptMember(Base):
    """A further worker of an attempt, with a lease of its own; `JobAttempt.worker` is node 0. See `members`."""

    __tablename__ = "attempt_members"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column("epoch", Integer, primary_key=True)
    node: Mapped[int] = mapped_column(Integer, primary_key=True)
    worker: Mapped[str] = mapped_column(String(255))
    slot: Mapped[str] = mapped_column(String(64), unique=True)
    """Id of the `IdleSlot` that the claim took."""
    lease_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ready_step: Mapped[int | None] = mapped_column(Integer)
    """Step of the checkpoint that it resumes from, 0 for the beginning; None while it prepares."""
    ending: Mapped[dict[str, Any] | None]
    """`MemberEnd` as JSON once its trainer has ended."""
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        ForeignKeyConstraint(["job_id", "epoch"], ["job_attempts.job_id", "job_attempts.epoch"], ondelete="CASCADE"),
        Index("ix_attempt_members_lease", "lease_until", postgresql_where="ended_at IS NULL"),
    )


class IdleSlot(Base):
    """A free slot of a worker that waits for a job over several workers; see `gangs`."""

    __tablename__ = "idle_slots"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    worker: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(Text)
    """`Worker.kind`: only equal ones train together."""
    gpus: Mapped[int] = mapped_column(Integer)
    until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """After this time the slot does not count: its worker no longer polls."""


class LogPart(Base):
    """A stretch of the log of an attempt's trainer; see `attempt_logs`. Deleted with its attempt."""

    __tablename__ = "log_parts"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column("epoch", Integer, primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """Position of the first character in the log."""
    stop: Mapped[int] = mapped_column(BigInteger)
    """Position after the last character."""
    text: Mapped[str] = mapped_column(Text)

    # A release without this table deletes attempts, too: the database must delete their parts.
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "epoch"], ["job_attempts.job_id", "job_attempts.epoch"], ondelete="CASCADE"),
    )


class JobEvent(Base):
    """A job event shown to users. `seq` has no gaps within a job; `id` never changes."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        CheckConstraint("level IN ('info', 'warn', 'error')", name="level"),
        CheckConstraint("type IN ('message', 'metrics')", name="type"),
    )


class Metric(Base):
    """All values of one optimiser step (step 0: before training)."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    values: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class MetricRollup(Base):
    """The least and the greatest value of one metric in a block of steps; see `metric_series`."""

    __tablename__ = "metric_rollups"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    block: Mapped[int] = mapped_column(Integer, primary_key=True)
    low_step: Mapped[int | None] = mapped_column(Integer)
    """None, like the other three columns, if no step of the block has a value."""
    low: Mapped[float | None] = mapped_column(Double)
    high_step: Mapped[int | None] = mapped_column(Integer)
    high: Mapped[float | None] = mapped_column(Double)


class Group(Base):
    """The group of one prompt at one step: each answer with its source, reward and advantage."""

    __tablename__ = "groups"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    idx: Mapped[int] = mapped_column(Integer, primary_key=True)
    record: Mapped[dict[str, Any]]
    """`GroupRecord` as JSON."""


class Checkpoint(Base):
    """A verified checkpoint in the blob store."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, Identity(), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int] = mapped_column("epoch", Integer)
    step: Mapped[int] = mapped_column(Integer)
    blob: Mapped[str] = mapped_column(String(255))
    """Key prefix of the checkpoint's files in the blob store."""
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (UniqueConstraint("job_id", "step"),)


class RemovedCheckpoint(Base):
    """A step whose checkpoint was deleted: requests for its model get another error than for one that never was."""

    __tablename__ = "removed_checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    removed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), server_default=func.now())
    """None for a checkpoint that an older version deleted."""
