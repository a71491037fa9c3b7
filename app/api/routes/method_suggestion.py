"""`POST /v1/files/{id}/suggested_method`: the methods that fit a data file."""

from typing import Final

from fastapi import APIRouter, Request

from app.api.deps import Config, Db, Lints, Slow, Store
from app.api.ids import FileId
from app.api.routes.grader_suggestion import suggestion_for
from app.api.schemas.method_suggestion import SuggestedMethod, SuggestMethod
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.files import uploads
from app.core.graders.registry import waits
from app.core.jobs.grader_services import check_services
from app.core.lint.method_choice import FileFacts, suggest_methods
from app.core.lint.run import WHILE_WAITING, Budget
from app.core.spec.job import GroupMix

router = APIRouter()

ALL_ANSWERS: Final = GroupMix(expert=1, teacher=32, self_=4)
"""All known answers of a row count."""
BUDGET: Final = Budget(answers=1_000, seconds=WHILE_WAITING.seconds)


@router.post("/{file_id}/suggested_method", dependencies=[needs(Scope.jobs_write)])
async def suggest_method(
    request: Request,
    caller: Caller,
    file_id: FileId,
    body: SuggestMethod,
    database: Db,
    store: Store,
    lints: Lints,
    settings: Config,
    slow: Slow,
) -> SuggestedMethod:
    """Suggest methods for a valid data file, best first, with a reason for each.

    The answers of a sample are graded, for at most 15 seconds, by `grader` or else by the grader that is suggested for
    the file if that knows the right answers. A grader that calls another server is used only with `remote`.
    """

    def work(deadline: Deadline) -> SuggestedMethod:
        with database.reading() as session:
            file = uploads.get_file(session, caller.project_id, file_id)
            report = uploads.valid_report(file)
        grader, knows_answers = body.grader, True
        if grader is None:
            suggestion = suggestion_for(store, file, report)[1]
            # Without a field, the demonstrations are the right answers: all of them would pass.
            grader, knows_answers = suggestion.grader, suggestion.field is not None
        lint = None
        if grader is not None and knows_answers and (body.remote or not waits(grader)):
            lint = lints.lint(file, grader, ALL_ANSWERS, deadline, BUDGET)
        facts = FileFacts.of(report, lint, has_grader=grader is not None)
        return SuggestedMethod.of(file.id, suggest_methods(facts), grader, lint)

    if body.grader is not None and body.remote:
        check_services(body.grader, "grader", settings.judge_url, settings.private_hosts)
        return await slow.grader(body.grader).run(request, caller.project_id, work)
    return await slow.grading.run(request, caller.project_id, work)
