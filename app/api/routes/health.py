"""`/healthz` and `/readyz`, for load balancers and orchestrators."""

from fastapi import APIRouter

from app.api.deps import InferenceEngines, Ready
from app.core.errors import GrouptuneError
from app.core.spec.described import Described

router = APIRouter(tags=["Health"])


class NotReady(GrouptuneError):
    """The server is not ready."""

    status = 503
    code = "not_ready"


class Health(Described):
    """The server is healthy."""

    status: str = "ok"
    """`ok`."""
    warnings: list[str] | None = None
    """What does not work although the server does, such as inference while its engine is down."""


# Async: `/healthz` must answer even while all threads are busy.
@router.get("/healthz", response_model_exclude_none=True)
async def healthz() -> Health:
    """Report that the process responds."""
    return Health()


@router.get("/readyz", response_model_exclude_none=True)
async def readyz(readiness: Ready, engines: InferenceEngines) -> Health:
    """Report whether Postgres is reachable, its schema is not too old, and the storage is writable.

    An inference engine that is down is a warning: all other routes work without it. Results are kept for a second.
    """
    if problems := await readiness.problems():
        raise NotReady(" ".join(problems))
    return Health(warnings=engines.problems() or None)
