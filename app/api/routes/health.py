"""`/healthz` and `/readyz`, for load balancers and orchestrators."""

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.deps import Config, InferenceEngines, Store
from app.core import migrate
from app.core.errors import DatabaseUnavailable, GrouptuneError
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore, StorageUnavailable

router = APIRouter(tags=["Health"])


class NotReady(GrouptuneError):
    """The server is not ready."""

    status = 503
    code = "not_ready"


class Health(BaseModel):
    """The server is healthy."""

    status: str = "ok"
    warnings: list[str] | None = None
    """What does not work although the server does, such as inference while its engine is down."""


@router.get("/healthz", response_model_exclude_none=True)
def healthz() -> Health:
    """Report that the process responds."""
    return Health()


@router.get("/readyz", response_model_exclude_none=True)
def readyz(settings: Config, store: Store, engines: InferenceEngines) -> Health:
    """Report whether Postgres is reachable, its schema is current, and the storage is writable.

    An inference engine that is down is a warning: all other routes work without it.
    """
    problems = [*_database_problems(settings), *_storage_problems(store)]
    if problems:
        raise NotReady(" ".join(problems))
    return Health(warnings=engines.problems() or None)


def _database_problems(settings: Settings) -> list[str]:
    try:
        current = migrate.current_is_head(settings.database_url or "")
    except DatabaseUnavailable:
        return ["Postgres is unreachable; check DATABASE_URL and that Postgres runs."]
    return [] if current else ["The database schema is not current; run `grouptune db upgrade`."]


def _storage_problems(store: BlobStore) -> list[str]:
    try:
        store.check_writable()
    except StorageUnavailable as error:
        return [error.message]
    return []
