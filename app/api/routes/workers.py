"""`/v1/workers`: the machines that train, their hardware, their state and their jobs."""

from fastapi import APIRouter

from app.api.deps import Config, Db
from app.api.pagination import Page, page
from app.api.schemas.workers import WorkerObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.jobs import worker_jobs

router = APIRouter(prefix="/workers", tags=["Workers"])


@router.get("", dependencies=[needs(Scope.jobs_read)])
def list_workers(caller: Caller, database: Db, settings: Config) -> Page[WorkerObject]:
    """List all workers of the installation by name, each with this project's jobs on it."""
    with database.reading() as session:
        return page(
            [
                WorkerObject.of(worker)
                for worker in worker_jobs.list_worker_jobs(session, caller.project_id, settings.lease_seconds)
            ],
            False,
        )
