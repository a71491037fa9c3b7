"""`GET /v1/files/{id}/rows`: rows as jobs read them, to send as a prompt or to grade an answer."""

from itertools import islice
from typing import Annotated, Final

from fastapi import APIRouter, Query

from app.api.deps import Db, Store
from app.api.ids import FileId
from app.api.schemas.file_rows import FileRow, FileRows
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.files import reading, uploads
from app.core.files.validation import MAX_FILE_BYTES
from app.core.spec.rows import parse_row

MAX_ROWS: Final = 20

router = APIRouter()


@router.get("/{file_id}/rows", dependencies=[needs(Scope.files_read)])
def list_rows(
    caller: Caller,
    file_id: FileId,
    database: Db,
    store: Store,
    after: Annotated[int, Query(ge=0, le=MAX_FILE_BYTES, description="Only rows after this line.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="Maximum number of rows.")] = 1,
) -> FileRows:
    """List rows of a valid data file: prompt, tools, known answers, and what graders read."""
    with database.reading() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
        report = uploads.valid_report(file)
    with store.open(file.rows[0]) as stream:
        lines = list(islice(reading.rows_after(stream, report.places, after), limit + 1))
    return FileRows(
        file_id=file.id,
        rows=report.rows,
        data=[FileRow.of(line.number, parse_row(line.content, line.number)) for line in lines[:limit]],
        has_more=len(lines) > limit,
    )
