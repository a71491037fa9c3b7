"""`/v1/workers`: which machines train, what they have, and what they are at."""

from fastapi import APIRouter

from app.api.deps import Config, Db
from app.api.pagination import Page, page
from app.api.schemas.workers import WorkerObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.jobs import queries

router = APIRouter(prefix="/workers", tags=["Workers"])


@router.get("", dependencies=[needs(Scope.jobs_read)])
def list_workers(caller: Caller, database: Db, settings: Config) -> Page[WorkerObject]:
    """List all workers of the installation, by name. Of their jobs only this project's are named."""
    with database.reading() as session:
        return page(
            [
                WorkerObject.of(one)
                for one in queries.list_worker_jobs(session, caller.project_id, settings.lease_seconds)
            ],
            False,
        )
