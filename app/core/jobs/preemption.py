"""Preemption: a running job of a lower priority saves a checkpoint and makes room for a queued job.

A queued job must have waited for `patience_seconds`, longer than one round of the sweeper. A free worker that has not
been notified yet would otherwise claim it without preempting anything.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from app.core.jobs.controls import waits_sql
from app.core.jobs.events import Event, append
from app.core.jobs.gangs import idle_slots
from app.core.jobs.leases import NO_LIMIT
from app.core.jobs.state_machine import JobStatus, StopRequest
from app.core.jobs.tables import Job
from app.core.workers.presence import gpus_by_worker

# Queued jobs that have waited long enough and outrank some running job, in the order in which `leases` claims them; no
# more of them than jobs run. `room` is the number of further jobs that the project may run.
_WAITING: Final = text(
    f"""
    SELECT candidate.id, candidate.project_id, candidate.priority, candidate.gpus, candidate.nodes,
           coalesce(project.max_running_jobs, :max_running_jobs) - coalesce(busy.jobs, 0) AS room
    FROM jobs AS candidate
    LEFT JOIN (SELECT project_id, count(*) AS jobs FROM jobs WHERE status = 'running' GROUP BY project_id) AS busy
        ON busy.project_id = candidate.project_id
    JOIN projects AS project ON project.id = candidate.project_id
    LEFT JOIN project_usage AS usage
        ON usage.project_id = project.id AND usage.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
    WHERE candidate.status = 'queued' AND candidate.eligible_at <= now() - make_interval(secs => :patience_seconds)
          AND NOT {waits_sql("candidate")}
          AND coalesce(usage.gpu_seconds, 0) < coalesce(project.max_gpu_hours, :max_gpu_hours) * 3600.0
          AND candidate.priority > (SELECT min(priority) FROM jobs WHERE status = 'running' AND stop_request IS NULL)
    ORDER BY candidate.priority DESC, coalesce(busy.jobs, 0), candidate.eligible_at, candidate.created_at, candidate.id
    LIMIT (SELECT count(*) FROM jobs WHERE status = 'running')
    """  # noqa: S608 - constants
)


@dataclass
class _RunningJobs:
    """Running jobs that may be preempted, and those that are already stopping."""

    jobs: list[Job]
    leaving: list[Job]
    gpus: dict[str, int]
    """Worker -> the GPUs that it has. A job that needs more would not take the place of the worker's job."""

    def _has_gpus(self, job: Job, count: int) -> bool:
        return count == 1 or self.gpus.get(job.lease_owner or "", 0) >= count

    def leave(self, gpus: int) -> Job | None:
        """Remove and return a job that is already stopping on a worker with enough GPUs."""
        job = next((job for job in self.leaving if self._has_gpus(job, gpus)), None)
        if job is not None:
            self.leaving.remove(job)
        return job

    def take(self, project_id: str, priority: int, gpus: int, *, has_room: bool) -> Job | None:
        """Remove and return the job to preempt: the lowest priority, and among equals the fewest steps to lose."""
        eligible = [
            job
            for job in self.jobs
            if job.priority < priority and (has_room or job.project_id == project_id) and self._has_gpus(job, gpus)
        ]
        if not eligible:
            return None
        lowest = min(job.priority for job in eligible)
        victim = max((job for job in eligible if job.priority == lowest), key=lambda job: (-job.step, job.id))
        self.jobs.remove(victim)
        return victim


def make_room(
    session: Session, patience_seconds: float, max_running_jobs: int = NO_LIMIT, max_gpu_hours: int = NO_LIMIT
) -> int:
    """Preempt one running job for each place that waiting jobs of a higher priority need; return how many.

    For a project at its limit of running jobs, only its own jobs are preempted.
    """
    values = {
        "patience_seconds": patience_seconds,
        "max_running_jobs": max_running_jobs,
        "max_gpu_hours": max_gpu_hours,
    }
    waiting = session.execute(_WAITING, values).all()
    if not waiting:
        return 0
    jobs = session.scalars(
        select(Job).where(Job.status == JobStatus.running).order_by(Job.id).with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).all()
    running = _RunningJobs(
        [job for job in jobs if job.stop_request is None],
        [job for job in jobs if job.stop_request is not None],
        gpus_by_worker(session) if any(row.gpus > 1 for row in waiting) else {},
    )
    room = {row.project_id: row.room for row in waiting}
    return sum(_preempt_for(session, row, running, room) for row in waiting)


def _preempt_for(session: Session, waiting: Row[Any], running: _RunningJobs, room: dict[str, int]) -> int:
    """Find the places for one waiting job; return how many running jobs had to be preempted for it.

    None is preempted unless all places can be found.
    """
    has_room = room[waiting.project_id] > 0
    places = waiting.nodes if waiting.nodes == 1 else waiting.nodes - idle_slots(session, waiting.gpus)
    leaving, victims = list[Job](), list[Job]()
    while len(leaving) + len(victims) < places:
        # A running job that is already stopping makes a place, too.
        if has_room and (job := running.leave(waiting.gpus)) is not None:
            leaving.append(job)
        elif job := running.take(waiting.project_id, waiting.priority, waiting.gpus, has_room=has_room):
            victims.append(job)
        else:
            running.leaving += leaving
            running.jobs += victims
            return 0
    if leaving or any(victim.project_id != waiting.project_id for victim in victims):
        room[waiting.project_id] -= 1
    for victim in victims:
        _preempt(session, victim, waiting)
    return len(victims)


def _preempt(session: Session, victim: Job, waiting: Row[Any]) -> None:
    victim.stop_request = StopRequest.preempt
    session.flush()
    # Another project's job must not be named.
    waiting_job = f"Job {waiting.id}" if victim.project_id == waiting.project_id else "A job of another project"
    append(
        session,
        victim.id,
        Event(
            f"{waiting_job} with priority {waiting.priority} preempts this job with priority {victim.priority}; it "
            "saves a checkpoint first"
        ),
    )
