"""Server-sent events of a job, of a project's jobs, or of a file."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.api.deps import Db, Streams, Strict
from app.api.event_streams import EVENT_STREAM, event_stream
from app.api.ids import MAX_ID, FileId, JobId
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.files import uploads
from app.core.jobs import changes, queries

router = APIRouter()


@router.get(
    "/fine_tuning/jobs/{job_id}/stream",
    tags=["Fine-tuning"],
    response_class=StreamingResponse,
    responses=EVENT_STREAM,
    dependencies=[needs(Scope.jobs_read)],
)
async def stream_job(
    request: Request,
    caller: Caller,
    job_id: JobId,
    database: Db,
    hub: Streams,
    last_event_id: Annotated[
        str | None, Header(max_length=MAX_ID, description="Continue after this event. If absent, all events are sent.")
    ] = None,
    after: Annotated[
        str | None,
        Query(
            max_length=MAX_ID, description="The same for browsers, which cannot set the header on the first request."
        ),
    ] = None,
    strict: Strict = False,
) -> StreamingResponse:
    """Stream a job: `message` and `metrics` are its events with their ids, `state` is the job, and `end` comes last.

    A client that reconnects with `Last-Event-ID` gets every event exactly once, in order.
    """
    seq = await run_in_threadpool(_start_position, database, caller.project_id, job_id, last_event_id or after)
    stream = hub.job(caller.project_id, job_id, seq, strict=strict)
    return event_stream(request, stream)


@router.get(
    "/fine_tuning/stream",
    tags=["Fine-tuning"],
    response_class=StreamingResponse,
    responses=EVENT_STREAM,
    dependencies=[needs(Scope.jobs_read)],
)
async def stream_jobs(request: Request, caller: Caller, hub: Streams, strict: Strict = False) -> StreamingResponse:
    """Stream the project's 200 newest jobs. `state` is a job, sent first and after every change. Never ends."""
    stream = hub.project(caller.project_id, strict=strict)
    return event_stream(request, stream)


@router.get(
    "/files/{file_id}/stream",
    tags=["Files"],
    response_class=StreamingResponse,
    responses=EVENT_STREAM,
    dependencies=[needs(Scope.files_read)],
)
async def stream_file(
    request: Request, caller: Caller, file_id: FileId, database: Db, hub: Streams, strict: Strict = False
) -> StreamingResponse:
    """Stream a file until it is validated. `state` is the file before and after, and `end` comes last."""
    await run_in_threadpool(_check_file, database, caller.project_id, file_id)
    stream = hub.file(caller.project_id, file_id, strict=strict)
    return event_stream(request, stream)


def _check_file(database: Database, project_id: str, file_id: str) -> None:
    with database.transaction() as session:
        uploads.get_file(session, project_id, file_id)


def _start_position(database: Database, project_id: str, job_id: str, last_event_id: str | None) -> int:
    with database.reading() as session:
        job = queries.get_job(session, project_id, job_id)
        return changes.seq_of(session, job.id, last_event_id) if last_event_id else 0
