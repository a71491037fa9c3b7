"""Reads of jobs, their events, checkpoints and attempts. A page begins after the last item of the page before."""

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Double,
    Text,
    any_,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.core.errors import InvalidRequest, NotFound
from app.core.files.tables import File
from app.core.jobs import controls
from app.core.jobs.placement import waiting_reasons
from app.core.jobs.progress import Phase, run_progress, run_seconds
from app.core.jobs.state_machine import TERMINAL, JobStatus
from app.core.jobs.tables import AttemptMember, Checkpoint, Job, JobAttempt, JobEvent, Metric
from app.core.models.tables import TrainedModel
from app.core.prometheus import Backlog
from app.core.spec.teacher_answers import Spent

_Row = TypeVar("_Row", JobEvent, Checkpoint)
_SEEN: Final = aliased(Job)
"""The last job of the page before."""
HEADLINES: Final = ("reward", "rewards/margins", "loss")
"""Metrics that lists of jobs show."""


class JobOrder(StrEnum):
    """What a list of jobs is sorted by. Jobs without a value come last."""

    created_at = "created_at"
    finished_at = "finished_at"
    name = "name"
    status = "status"
    method = "method"
    model = "model"
    reward = "reward"


def get_job(session: Session, project_id: str, job_id: str) -> Job:
    """Return the job. Raises `NotFound`, also for a job of another project."""
    return job_of_project(session, project_id, job_id)


def job_of_project(session: Session, project_id: str, job_id: str, *, lock: bool = False) -> Job:
    """Return the job; with `lock`, its row is locked until the transaction ends. Raises `NotFound`."""
    statement = select(Job).where(Job.id == job_id, Job.project_id == project_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    job = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if job is None:
        raise no_job(job_id)
    return job


def no_job(job_id: str) -> NotFound:
    """Return the error for a job that does not exist or belongs to another project."""
    return NotFound(f"The fine-tuning job '{job_id}' does not exist in this project.")


def find_jobs(session: Session, wanted: Collection[tuple[str, str]]) -> list[Job]:
    """Return the existing jobs among `wanted`, pairs of a project's id and a job's id."""
    job_ids = literal([job_id for _, job_id in wanted], ARRAY(Text))
    jobs = session.scalars(select(Job).where(Job.id == any_(job_ids)))
    return [job for job in jobs if (job.project_id, job.id) in wanted]


def evaluation_samples(session: Session, job_id: str) -> dict[str, Any]:
    """Return the sample answers of a job's held-out evaluations, by the part of `evaluation`.

    `lines`, if known, are the lines of the rows that select and of those that report.
    """
    reporting = func.coalesce(Job.evaluation_rows["after"]["lines"], Job.evaluation_rows["before"]["lines"])
    columns = select(Job.evaluation_samples, Job.evaluation_rows["selection"], reporting)
    row = session.execute(columns.where(Job.id == job_id)).one_or_none()
    if row is None:
        return {}
    samples, selecting, reports = row
    return (samples or {}) | ({} if reports is None else {"lines": {"selection": selecting, "reporting": reports}})


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
    order_by: JobOrder = JobOrder.created_at,
    order: Literal["asc", "desc"] = "desc",
) -> tuple[list[Job], bool]:
    """Return a page of jobs, newest first unless sorted otherwise, and whether more follow.

    All of `metadata` must match; `{}` selects jobs without metadata. `search` is a part of the id, the suffix, a model
    or the metadata, in upper or lower case. Raises `InvalidRequest` with `param` "after" if `after` is not such a job.
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
    key, seen = (_sort_key(table, order_by, is_descending=order == "desc") for table in (Job, _SEEN))
    place = select(*seen).where(_SEEN.id == after, _SEEN.project_id == project_id)
    if after is not None:
        before, last = tuple_(*key), place.scalar_subquery()
        statement = statement.where(before < last if order == "desc" else before > last)
    by = (column.desc() if order == "desc" else column.asc() for column in key)
    rows = session.scalars(statement.order_by(*by).limit(limit + 1)).all()
    if after is not None and not rows and session.scalar(place) is None:  # an empty page after the last job is no error
        raise _unknown(after)
    return list(rows[:limit]), len(rows) > limit


def _sort_key(table: Any, order_by: JobOrder, *, is_descending: bool) -> tuple[ColumnElement[Any], ...]:
    """Return the columns to sort by. They hold no NULL, with which no place could be compared."""
    newest = (table.created_at, table.id)
    last = "-infinity" if is_descending else "infinity"
    match order_by:
        case JobOrder.created_at:
            return newest
        case JobOrder.finished_at:
            return (func.coalesce(table.finished_at, cast(last, DateTime(timezone=True))), *newest)
        case JobOrder.reward:
            at_step = (Metric.job_id == table.id) & (Metric.step == table.step)
            reward = select(Metric.values["reward"].as_float()).where(at_step).scalar_subquery()
            return (func.coalesce(reward, cast(last, Double)), *newest)
        case JobOrder.status:
            return (table.status, *newest)
        case JobOrder.method | JobOrder.model:
            return (table.spec[order_by.value].astext, *newest)
        case JobOrder.name:
            name = func.coalesce(table.spec["metadata"]["name"].astext, table.spec["suffix"].astext)
            return (func.coalesce(func.lower(name), "" if is_descending else "\U0010ffff"), *newest)


def last_values(session: Session, jobs: Sequence[Job]) -> dict[str, dict[str, float]]:
    """Return job id -> the `HEADLINES` among the metrics of its last step."""
    columns = (Metric.values[name].label(f"value_{index}") for index, name in enumerate(HEADLINES))
    at_step = (Metric.job_id == Job.id) & (Metric.step == Job.step)
    rows = session.execute(select(Job.id, *columns).join(Metric, at_step).where(Job.id.in_([job.id for job in jobs])))
    return {
        job_id: {name: value for name, value in zip(HEADLINES, values, strict=True) if isinstance(value, float | int)}
        for job_id, *values in rows
    }


def list_events(session: Session, job_id: str, *, after: str | None, limit: int) -> tuple[list[JobEvent], bool]:
    """Return a page of events, newest first, and whether more follow. Raises as `list_jobs`."""
    return _page(session, JobEvent, JobEvent.seq, job_id, after, limit)


def list_checkpoints(session: Session, job_id: str, *, after: str | None, limit: int) -> tuple[list[Checkpoint], bool]:
    """Return a page of checkpoints, newest first, and whether more follow. Raises as `list_jobs`."""
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
    return InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")


def list_metrics(session: Session, job_id: str) -> list[Metric]:
    """Return the metrics of all steps, in order."""
    return list(session.scalars(select(Metric).where(Metric.job_id == job_id).order_by(Metric.step)))


def list_attempts(session: Session, job_id: str) -> list[JobAttempt]:
    """Return all attempts, the first attempt first."""
    return list(session.scalars(select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.attempt)))


def list_members(session: Session, job_id: str) -> dict[int, list[str]]:
    """Return attempt -> its further workers, for the attempts that have some."""
    members = defaultdict[int, list[str]](list)
    statement = select(AttemptMember).where(AttemptMember.job_id == job_id)
    for member in session.scalars(statement.order_by(AttemptMember.attempt, AttemptMember.node)):
        members[member.attempt].append(member.worker)
    return members


def last_steps(session: Session, job_id: str) -> dict[int, int]:
    """Return attempt -> its last reported step, from the events of its time. Attempts without a step are left out."""
    during = (JobEvent.created_at >= JobAttempt.started_at) & (
        JobAttempt.ended_at.is_(None) | (JobEvent.created_at <= JobAttempt.ended_at)
    )
    last_reported = (
        select(JobAttempt.attempt, func.max(JobEvent.data["step"].as_integer()).label("last"))
        .join(JobEvent, (JobEvent.job_id == JobAttempt.job_id) & (JobEvent.type == "metrics") & during)
        .where(JobAttempt.job_id == job_id)
        .group_by(JobAttempt.attempt)
    )
    return {row.attempt: row.last for row in session.execute(last_reported)}


def latest_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """Return the checkpoints to resume from, the latest first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())))


# Numbers the whole queue and then picks the wanted jobs. The order is that of `ix_jobs_turn`, so Postgres reads this
# index only and sorts nothing. Counting the jobs before each wanted job would read as much for a single job.
_POSITIONS: Final = text(
    f"""
    SELECT id, position
    FROM (SELECT id, row_number() OVER (ORDER BY priority DESC, eligible_at, created_at, id) AS position
          FROM jobs WHERE status = 'queued' AND NOT {controls.waits_sql("jobs")}) AS queue
    WHERE id = ANY(:ids)
    """  # noqa: S608 - constants
)


def queue_positions(session: Session, jobs: Sequence[Job]) -> dict[str, int]:
    """Return job id -> position in the queue, from 1.

    Jobs that are not queued, or wait for their control, are left out. Positions are by priority and age. Fairness
    between projects may start a job earlier or later.
    """
    queued = [job.id for job in jobs if job.status == JobStatus.queued]
    if not queued:
        return {}
    return {row.id: row.position for row in session.execute(_POSITIONS, {"ids": queued})}


def job_file(session: Session, project_id: str, file_id: str, param: str) -> File:
    """Return a data file of a job. Raises `InvalidRequest` with `param` if it was deleted."""
    file = session.scalars(select(File).where(File.id == file_id, File.project_id == project_id)).one_or_none()
    if file is None:
        raise InvalidRequest(f"The file '{file_id}' was deleted.", param=param, code="file_not_found")
    return file


def held_out_file(session: Session, model: str) -> File | None:
    """Return the validation file of the job that trained a model; None without one, or if it is deleted."""
    held_out = select(File).join(Job, Job.validation_file == File.id).join(TrainedModel, TrainedModel.job_id == Job.id)
    return session.scalar(held_out.where(TrainedModel.id == model))


def running_attempts(session: Session, job_ids: Collection[str]) -> dict[str, int]:
    """Return the number of the current attempt of each of the jobs that runs."""
    rows = session.execute(select(Job.id, Job.attempt).where(Job.id.in_(job_ids), Job.status == JobStatus.running))
    return {row.id: row.attempt for row in rows}


def any_queued(session: Session) -> bool:
    """Return whether a job is queued and eligible now. Its project may still be at a limit."""
    eligible = select(Job.id).where(Job.status == JobStatus.queued, Job.eligible_at <= func.now(), ~controls.waits())
    return session.scalar(select(eligible.exists())) is True


def teacher_usage(session: Session, job_id: str) -> Spent:
    """Return what all attempts together have spent on the job's teacher."""
    return Spent.model_validate(session.scalar(select(Job.teacher_usage).where(Job.id == job_id)) or {})


@dataclass(frozen=True)
class JobDetails:
    """A job with the values that its own row does not hold: its place in the queue, phase, times and last metrics."""

    job: Job
    queue_position: int | None
    """1 is the next job; None unless the job is queued, and while it waits for its control."""
    eta_seconds: float | None
    """Seconds to the last step; None unless the job runs and has an estimate or a pace."""
    estimated_finish: float | None
    """`eta_seconds` as a time, in Unix seconds."""
    phase: Phase | None
    """None unless the job runs."""
    run_seconds: float | None
    """Seconds that workers have run the job; None before its first attempt."""
    values: dict[str, float]
    """The `HEADLINES` of the last step."""
    control: Job | None
    """The job's control; None for a job without one, or if it was deleted."""
    waiting_for: str | None
    """Why no worker takes a queued job yet; None for other jobs, while it waits for its control, and if a worker may
    take it at any moment."""


def job_details(session: Session, job: Job) -> JobDetails:
    """Return the details of one job."""
    return list_details(session, [job])[0]


def list_details(session: Session, jobs: Sequence[Job]) -> list[JobDetails]:
    """Return the details of several jobs, in their order."""
    positions = queue_positions(session, jobs)
    controls_by_job = controls.controls_of(session, [job.id for job in jobs if job.spec.get("control")])
    running, seconds, values = run_progress(session, jobs), run_seconds(session, jobs), last_values(session, jobs)
    are_first = [job for job in jobs if job.id not in controls_by_job or controls_by_job[job.id].status in TERMINAL]
    reasons = waiting_reasons(session, are_first)
    now = time.time()
    details = []
    for job in jobs:
        own = running.get(job.id)
        eta = None if own is None else own.eta_seconds
        control = controls_by_job.get(job.id)
        is_waiting = control is not None and control.status not in TERMINAL
        details.append(
            JobDetails(
                job,
                queue_position=None if is_waiting else positions.get(job.id),
                eta_seconds=eta,
                estimated_finish=None if eta is None else now + eta,
                phase=None if own is None else own.phase,
                run_seconds=seconds.get(job.id),
                values=values.get(job.id, {}),
                control=control,
                waiting_for=reasons.get(job.id),
            )
        )
    return details


def backlog(session: Session) -> Backlog:
    """Count the unfinished jobs of all projects, the workers that they take, and the longest wait of a queued job.

    Times are by the database's clock. Two cheap queries: Prometheus runs them at each scrape.
    """
    live = [status for status in JobStatus if status not in TERMINAL]
    nodes = func.coalesce(func.sum(Job.nodes).filter(~controls.waits()), 0)
    rows = session.execute(select(Job.status, func.count(), nodes).where(Job.status.in_(live)).group_by(Job.status))
    counts, wanted = dict.fromkeys(map(str, live), 0), 0
    for status, count, workers in rows:
        counts[status] = count
        wanted += workers if status in (JobStatus.queued, JobStatus.running) else 0
    age = func.extract("epoch", func.now() - func.min(Job.eligible_at))
    is_eligible = (Job.status == JobStatus.queued, Job.eligible_at <= func.now(), ~controls.waits())
    waiting = select(func.coalesce(age, 0)).where(*is_eligible)
    return Backlog(counts, wanted, float(session.scalars(waiting).one()))
