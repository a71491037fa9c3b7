"""`/v1/fine_tuning/jobs/{id}/logs`: what the trainer of an attempt wrote."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from app.api.deps import Db
from app.api.ids import JobId
from app.api.schemas.job_logs import JobLog
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.jobs import attempt_logs, queries
from app.core.jobs.attempt_logs import LogPage

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])

MAX_POSITION: Final = 2**53
"""Larger numbers are not exact in JavaScript."""
DEFAULT_LIMIT: Final = 262_144


@router.get(
    "/{job_id}/logs",
    response_model=JobLog,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[needs(Scope.jobs_read)],
)
def job_logs(
    caller: Caller,
    job_id: JobId,
    database: Db,
    attempt: Annotated[
        int | None, Query(ge=1, le=2_147_483_647, description="Number of the attempt; the latest if absent.")
    ] = None,
    after: Annotated[
        int, Query(ge=0, le=MAX_POSITION, description="Position to start at: `next` of the previous piece.")
    ] = 0,
    limit: Annotated[
        int, Query(ge=1, le=attempt_logs.MAX_PAGE, description="Maximum number of characters.")
    ] = DEFAULT_LIMIT,
    output: Annotated[
        Literal["json", "text"],
        Query(
            alias="format",
            description="`text` is all that is stored from `after` on, regardless of `limit`, as a text file.",
        ),
    ] = "json",
) -> JobLog | StreamingResponse:
    """Return the log of one attempt, from position `after` on.

    A worker adds new lines about once a second while the attempt runs. API keys, tokens, passwords and addresses of
    databases are replaced with `[redacted]`.
    """
    with database.reading() as session:
        job = queries.get_job(session, caller.project_id, job_id)
        page = attempt_logs.read(session, job.id, attempt, after, limit)
    if output == "json":
        return JobLog.of(job_id, page)
    name = f"{job_id}-attempt-{page.attempt or 0}.log"
    return StreamingResponse(
        _whole(database, job_id, page, after),
        media_type="text/plain; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _whole(database: Database, job_id: str, page: LogPage, after: int) -> Iterator[str]:
    """Yield the text from position `after` on, up to the end as it is when that is reached."""
    has_more = page.attempt is not None
    while has_more:
        with database.reading() as session:  # one per piece, so that a slow client holds no connection
            page = attempt_logs.read(session, job_id, page.attempt, after, DEFAULT_LIMIT)
        yield attempt_logs.omission(page.omitted) + page.text
        after, has_more = page.next, page.has_more
