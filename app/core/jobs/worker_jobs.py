"""Workers as the API lists them: with the jobs that they run, and why they take none."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from app.core.jobs import gangs
from app.core.jobs.occupancy import occupied_slots
from app.core.workers.presence import WorkerPresence, list_workers

_WAITS: Final = (
    "Waits until other workers are free for a job over several workers. It holds back from other jobs for at most a "
    "minute."
)


@dataclass(frozen=True)
class WorkerJobs:
    """A worker and the jobs that it runs."""

    presence: WorkerPresence
    running: int
    """Number of jobs, of all projects."""
    own_jobs: tuple[str, ...]
    """Ids of the jobs of the requesting project. A project must not see the ids of other projects' jobs."""
    reason: str | None
    """Why the worker, although it is ready, takes no job; None for other workers."""


def list_worker_jobs(session: Session, project_id: str, alive_seconds: float) -> list[WorkerJobs]:
    """Return all workers by name. A worker is alive if it reported within the last `alive_seconds`."""
    slots, waiting = occupied_slots(session), gangs.waiting_workers(session)
    return [
        WorkerJobs(
            presence,
            sum(slot.worker == presence.worker.name for slot in slots),
            tuple(
                slot.job_id for slot in slots if slot.worker == presence.worker.name and slot.project_id == project_id
            ),
            presence.worker.problem or (_WAITS if presence.worker.name in waiting else None),
        )
        for presence in list_workers(session, alive_seconds)
    ]
