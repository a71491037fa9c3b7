"""Reads of jobs and what belongs to them. Lists page by the id of the last item seen."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy import ARRAY, Text, any_, func, literal, or_, select, text, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.core.errors import InvalidRequest, NotFound
from app.core.files.tables import File
from app.core.jobs.progress import eta_seconds
from app.core.jobs.state_machine import TERMINAL, JobStatus
from app.core.jobs.tables import Checkpoint, Job, JobAttempt, JobEvent, Metric
from app.core.prometheus import Backlog
from app.core.spec.teacher_answers import Spent
from app.core.workers.presence import Seen, list_workers

_Row = TypeVar("_Row", JobEvent, Checkpoint)
_SEEN: Final = aliased(Job)
"""The last one of the page before."""


def get_job(session: Session, project_id: str, job_id: str) -> Job:
    """The job. Raises `NotFound`, also for a job of another project."""
    return job_of_project(session, project_id, job_id)


def job_of_project(session: Session, project_id: str, job_id: str, *, lock: bool = False) -> Job:
    """The job, with its row locked until the transaction ends if asked. Raises `NotFound`."""
    statement = select(Job).where(Job.id == job_id, Job.project_id == project_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    job = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if job is None:
        raise no_job(job_id)
    return job


def no_job(job_id: str) -> NotFound:
    """What to say of a job that is not there, or not the caller's."""
    return NotFound(f"There is no fine-tuning job '{job_id}' in this project.")


def find_jobs(session: Session, wanted: Collection[tuple[str, str]]) -> list[Job]:
    """Those of the jobs that there are, by project and id. A job of another project is left out."""
    named = literal([job_id for _, job_id in wanted], ARRAY(Text))
    found = session.scalars(select(Job).where(Job.id == any_(named)))
    return [job for job in found if (job.project_id, job.id) in wanted]


def list_jobs(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    metadata: dict[str, str] | None = None,
    status: str | None = None,
    method: str | None = None,
    search: str | None = None,
) -> tuple[list[Job], bool]:
    """A page of jobs, newest first, and whether there are more; `metadata` must all match, `{}` means jobs without any.

    `search` is part of the id, the name, a model or a value of the metadata, in any case. Raises `InvalidRequest`
    with `param` "after" when there is no such job.
    """
    statement = select(Job).where(Job.project_id == project_id)
    if metadata is not None:
        own = Job.spec["metadata"]
        statement = statement.where(own.contains(metadata) if metadata else own.astext.is_(None))
    if status is not None:
        statement = statement.where(Job.status == status)
    if method is not None:
        statement = statement.where(Job.spec["method"].astext == method)
    if search:
        names = (Job.id, Job.fine_tuned_model, *(Job.spec[key].astext for key in ("model", "suffix", "metadata")))
        statement = statement.where(or_(*(name.icontains(search, autoescape=True) for name in names)))
    place = select(_SEEN.created_at, _SEEN.id).where(_SEEN.id == after, _SEEN.project_id == project_id)
    if after is not None:
        statement = statement.where(tuple_(Job.created_at, Job.id) < place.scalar_subquery())
    rows = session.scalars(statement.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)).all()
    if after is not None and not rows and session.scalar(place) is None:  # else nothing is behind it
        raise _unknown(after)
    return list(rows[:limit]), len(rows) > limit


def list_events(session: Session, job_id: str, *, after: str | None, limit: int) -> tuple[list[JobEvent], bool]:
    """A page of events, newest first, and whether there are more. Raises `InvalidRequest` as `list_jobs`."""
    return _page(session, JobEvent, JobEvent.seq, job_id, after, limit)


def list_checkpoints(session: Session, job_id: str, *, after: str | None, limit: int) -> tuple[list[Checkpoint], bool]:
    """A page of checkpoints, newest first, and whether there are more. Raises as `list_jobs`."""
    return _page(session, Checkpoint, Checkpoint.step, job_id, after, limit)


def _page(
    session: Session,
    table: type[_Row],
    order: InstrumentedAttribute[int],
    job_id: str,
    after: str | None,
    limit: int,
) -> tuple[list[_Row], bool]:
    statement = select(table).where(table.job_id == job_id)
    if after is not None:
        seen = session.scalar(select(order).where(table.id == after, table.job_id == job_id))
        if seen is None:
            raise _unknown(after)
        statement = statement.where(order < seen)
    rows = session.scalars(statement.order_by(order.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def _unknown(after: str) -> InvalidRequest:
    return InvalidRequest(f"'after' names nothing in this list: {after!r}.", param="after")


def list_metrics(session: Session, job_id: str) -> list[Metric]:
    """All steps' values in order."""
    return list(session.scalars(select(Metric).where(Metric.job_id == job_id).order_by(Metric.step)))


def list_attempts(session: Session, job_id: str) -> list[JobAttempt]:
    """All attempts, the first one first."""
    return list(session.scalars(select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.attempt)))


def last_steps(session: Session, job_id: str) -> dict[int, int]:
    """Return attempt -> its last reported step, from the events of its time. Attempts without a step are left out."""
    during = (JobEvent.created_at >= JobAttempt.started_at) & (
        JobAttempt.ended_at.is_(None) | (JobEvent.created_at <= JobAttempt.ended_at)
    )
    reached = (
        select(JobAttempt.attempt, func.max(JobEvent.data["step"].as_integer()).label("last"))
        .join(JobEvent, (JobEvent.job_id == JobAttempt.job_id) & (JobEvent.type == "metrics") & during)
        .where(JobAttempt.job_id == job_id)
        .group_by(JobAttempt.attempt)
    )
    return {row.attempt: row.last for row in session.execute(reached)}


def latest_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """The checkpoints to resume from, best first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())))


# The whole queue is read, from `ix_jobs_turn` alone: counting what is before each job costs as much for one of them.
_POSITIONS: Final = text(
    """
    SELECT id, position
    FROM (SELECT id, row_number() OVER (ORDER BY priority DESC, eligible_at, created_at, id) AS position
          FROM jobs WHERE status = 'queued') AS queue
    WHERE id = ANY(:ids)
    """
)


def queue_positions(session: Session, jobs: Sequence[Job]) -> dict[str, int]:
    """How many queued jobs are tried before each of these, plus one, by id; those not queued are left out.

    By priority and age: fairness between projects may let a job start earlier or later.
    """
    asked = [job.id for job in jobs if job.status == JobStatus.queued]
    if not asked:
        return {}
    return {row.id: row.position for row in session.execute(_POSITIONS, {"ids": asked})}


def job_file(session: Session, project_id: str, file_id: str, param: str) -> File:
    """A data file of a job. Raises `InvalidRequest` with `param` when it is gone."""
    file = session.scalars(select(File).where(File.id == file_id, File.project_id == project_id)).one_or_none()
    if file is None:
        raise InvalidRequest(f"The file '{file_id}' is gone.", param=param, code="file_not_found")
    return file


def any_queued(session: Session) -> bool:
    """Whether a worker may find a job to claim now; its project may be at its limit."""
    eligible = select(Job.id).where(Job.status == JobStatus.queued, Job.eligible_at <= func.now())
    return session.scalar(select(eligible.exists())) is True


def teacher_usage(session: Session, job_id: str) -> Spent:
    """What all attempts have spent on the job's teacher."""
    return Spent.model_validate(session.scalar(select(Job.teacher_usage).where(Job.id == job_id)) or {})


@dataclass(frozen=True)
class JobDetails:
    """A job with the values that its own row does not hold: its place in the queue and its expected end."""

    job: Job
    queue_position: int | None
    """1 is the next job; None unless the job is queued."""
    eta_seconds: float | None
    """Seconds to the last step; None unless the job runs and has an estimate or a pace."""
    estimated_finish: float | None
    """`eta_seconds` as a time, in Unix seconds."""


def job_details(session: Session, job: Job) -> JobDetails:
    """Return the details of one job."""
    return list_details(session, [job])[0]


def list_details(session: Session, jobs: Sequence[Job]) -> list[JobDetails]:
    """Return the details of several jobs, in their order."""
    positions = queue_positions(session, jobs)
    etas = eta_seconds(session, jobs)
    return [_details(job, positions.get(job.id), etas.get(job.id)) for job in jobs]


def _details(job: Job, position: int | None, eta: float | None) -> JobDetails:
    return JobDetails(job, position, eta, None if eta is None else time.time() + eta)


@dataclass(frozen=True)
class WorkerJobs:
    """A worker and the jobs that it runs."""

    seen: Seen
    running: int
    """Number of jobs, of all projects."""
    own_jobs: tuple[str, ...]
    """Ids of the jobs of the requesting project. A project must not see the ids of other projects' jobs."""


def list_worker_jobs(session: Session, project_id: str, alive_seconds: float) -> list[WorkerJobs]:
    """Return all workers by name. A worker is alive if it reported within the last `alive_seconds`."""
    running = select(Job.lease_owner, Job.id, Job.project_id).where(Job.status == JobStatus.running).order_by(Job.id)
    rows = session.execute(running).all()
    return [
        WorkerJobs(
            seen,
            sum(row.lease_owner == seen.worker.name for row in rows),
            tuple(row.id for row in rows if row.lease_owner == seen.worker.name and row.project_id == project_id),
        )
        for seen in list_workers(session, alive_seconds)
    ]


def backlog(session: Session) -> Backlog:
    """Count the unfinished jobs of all projects, by status, and how long the oldest queued job has waited.

    Times are by the database's clock. Two cheap queries: Prometheus runs them at each scrape.
    """
    live = [status for status in JobStatus if status not in TERMINAL]
    counted = select(Job.status, func.count()).where(Job.status.in_(live)).group_by(Job.status)
    counts = dict.fromkeys(map(str, live), 0) | {row[0]: row[1] for row in session.execute(counted)}
    age = func.extract("epoch", func.now() - func.min(Job.eligible_at))
    waiting = select(func.coalesce(age, 0)).where(Job.status == JobStatus.queued, Job.eligible_at <= func.now())
    return Backlog(counts, float(session.scalars(waiting).one()))
