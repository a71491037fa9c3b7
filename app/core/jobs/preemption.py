"""Higher priorities take the place of lower ones: a running job is asked to save and to queue again.

Only when no worker was free for it: a job that waits for less than a round of sweeps may still be claimed by one that
nobody has rung yet.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from app.core.jobs.events import Event, append
from app.core.jobs.leases import NO_LIMIT
from app.core.jobs.state_machine import JobStatus, StopRequest
from app.core.jobs.tables import Job

# In the order of claims. `room` is how many more jobs the project may run.
_WAITING: Final = text(
    """
    SELECT candidate.id, candidate.project_id, candidate.priority,
           coalesce(project.max_running_jobs, :max_running_jobs) - coalesce(busy.jobs, 0) AS room
    FROM jobs AS candidate
    LEFT JOIN (SELECT project_id, count(*) AS jobs FROM jobs WHERE status = 'running' GROUP BY project_id) AS busy
        ON busy.project_id = candidate.project_id
    JOIN projects AS project ON project.id = candidate.project_id
    LEFT JOIN project_usage AS usage
        ON usage.project_id = project.id AND usage.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
    WHERE candidate.status = 'queued' AND candidate.eligible_at <= now() - make_interval(secs => :patience_seconds)
          AND coalesce(usage.gpu_seconds, 0) < coalesce(project.max_gpu_hours, :max_gpu_hours) * 3600.0
          AND candidate.priority > (SELECT min(priority) FROM jobs WHERE status = 'running' AND stop_request IS NULL)
    ORDER BY candidate.priority DESC, coalesce(busy.jobs, 0), candidate.eligible_at, candidate.created_at, candidate.id
    LIMIT (SELECT count(*) FROM jobs WHERE status = 'running')
    """
)


@dataclass
class _Places:
    """Running jobs that may be asked, and how many leave their places anyway."""

    jobs: list[Job]
    leaving: int

    def take(self, project_id: str, priority: int, *, has_room: bool) -> Job | None:
        """The job that gives way: the lowest priority, of those the one that has run the least."""
        fitting = [job for job in self.jobs if job.priority < priority and (has_room or job.project_id == project_id)]
        if not fitting:
            return None
        lowest = min(job.priority for job in fitting)
        victim = max((job for job in fitting if job.priority == lowest), key=lambda job: (-job.step, job.id))
        self.jobs.remove(victim)
        return victim


def make_room(
    session: Session, patience_seconds: float, max_running_jobs: int = NO_LIMIT, max_gpu_hours: int = NO_LIMIT
) -> int:
    """Asks as many running jobs to give way as queued ones of higher priorities wait; returns how many.

    A project at its limit of running jobs gets a place only from a job of its own.
    """
    values = {
        "patience_seconds": patience_seconds,
        "max_running_jobs": max_running_jobs,
        "max_gpu_hours": max_gpu_hours,
    }
    waiting = session.execute(_WAITING, values).all()
    if not waiting:
        return 0
    running = session.scalars(
        select(Job).where(Job.status == JobStatus.running).order_by(Job.id).with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).all()
    asked = [job for job in running if job.stop_request is not None]
    places = _Places([job for job in running if job.stop_request is None], len(asked))
    room = {one.project_id: one.room for one in waiting}
    return sum(_place(session, one, places, room) for one in waiting)


def _place(session: Session, waiting: Row[Any], places: _Places, room: dict[str, int]) -> bool:
    """Finds a place for one job; true when somebody was asked for it."""
    has_room = room[waiting.project_id] > 0
    if places.leaving and has_room:
        places.leaving -= 1
        room[waiting.project_id] -= 1
        return False
    victim = places.take(waiting.project_id, waiting.priority, has_room=has_room)
    if victim is None:
        return False
    if victim.project_id != waiting.project_id:
        room[waiting.project_id] -= 1
    victim.stop_request = StopRequest.preempt
    session.flush()
    said = (
        f"Job {waiting.id} has priority {waiting.priority}"
        if victim.project_id == waiting.project_id
        else (f"A job of priority {waiting.priority} waits")
    )
    append(session, victim.id, Event(f"{said} and this one {victim.priority}: it makes room after a checkpoint"))
    return True
