"""`GET /v1/files/{id}/suggested_grader`: the grader that fits the right answers in a file."""

from fastapi import APIRouter

from app.api.deps import Db, Store
from app.api.ids import FileId
from app.api.schemas.graders import SuggestedGrader
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.files import reading, uploads
from app.core.files.tables import File
from app.core.files.validation_report import FileReport
from app.core.graders.suggestion import Suggestion, suggest
from app.core.storage.blobs import BlobStore

router = APIRouter()


@router.get("/{file_id}/suggested_grader", dependencies=[needs(Scope.files_read)])
def suggest_grader(caller: Caller, file_id: FileId, database: Db, store: Store) -> SuggestedGrader:
    """Suggest a grader for a valid data file, from a sample of its rows. Nothing is graded."""
    with database.reading() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
        report = uploads.valid_report(file)
    return SuggestedGrader.of(file.id, *suggestion_for(store, file, report))


def suggestion_for(store: BlobStore, file: File, report: FileReport) -> tuple[int, Suggestion]:
    """Return the number of rows read, and the suggested grader. Call it outside of a transaction."""
    with store.open(file.rows[0]) as stream:
        rows = reading.sample_rows(stream, report)
    everywhere = [name for name, count in report.item_fields.items() if count == report.rows]
    return len(rows), suggest(rows, everywhere)
