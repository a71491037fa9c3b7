"""`GET /v1/files/{id}/suggested_grader`: the grader that fits the right answers in a file."""

from fastapi import APIRouter

from app.api.deps import Db, Store
from app.api.ids import FileId
from app.api.schemas.graders import SuggestedGrader
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.files import reading, uploads
from app.core.graders.suggestion import suggest

router = APIRouter()


@router.get("/{file_id}/suggested_grader", dependencies=[needs(Scope.files_read)])
def suggest_grader(caller: Caller, file_id: FileId, database: Db, store: Store) -> SuggestedGrader:
    """Suggest a grader for a valid data file, from a sample of its rows. Nothing is graded."""
    with database.reading() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
        report = uploads.valid_report(file)
    with store.open(file.rows[0]) as stream:
        rows = reading.sample_rows(stream, report)
    everywhere = [name for name, count in report.item_fields.items() if count == report.rows]
    return SuggestedGrader.of(file.id, len(rows), suggest(rows, everywhere))
