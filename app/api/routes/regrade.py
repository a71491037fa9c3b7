"""`POST /v1/fine_tuning/jobs/{id}/regrade`: rewards and advantages of stored answers under another grader."""

from typing import Final

from fastapi import APIRouter, Request

from app.api.deps import Config, Db, Graders, Slow, Store
from app.api.ids import JobId
from app.api.schemas.regrade import Regrade, Regraded
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.graders.regrade import regrade
from app.core.jobs import groups, queries, stored_specs, submission
from app.core.jobs.grader_services import check_services
from app.core.spec.job import GroupMethod
from app.core.storage.blobs import BlobMissing

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])

LIMIT_SECONDS: Final = 45.0
"""Short, because the client waits for the response."""


@router.post("/{job_id}/regrade", dependencies=[needs(Scope.jobs_write)])
async def regrade_job(
    request: Request,
    caller: Caller,
    job_id: JobId,
    body: Regrade,
    database: Db,
    store: Store,
    graders: Graders,
    settings: Config,
    slow: Slow,
) -> Regraded:
    """Grade stored groups with another grader, and compare its rewards and advantages with the original ones."""
    check_services(body.grader, "grader", settings.judge_url, settings.private_hosts)

    def run(deadline: Deadline) -> Regraded:
        with database.reading() as session:
            job = queries.get_job(session, caller.project_id, job_id)
            file = queries.job_file(session, caller.project_id, job.training_file, "training_file")
            submission.check_fields(body.grader, file, "grader")
            available, chosen = groups.choose(session, job.id, body.step_from, body.step_to, body.limit)
        try:
            stored = groups.with_items(store, file.rows[0], chosen)
        except BlobMissing as error:
            raise InvalidRequest(error.message, param="training_file", code="file_not_found") from error
        method = stored_specs.read_to_show(job.id, job.spec).settings
        scaling = method.advantage_scaling if isinstance(method, GroupMethod) else "std"
        graded = regrade(body.grader, stored, graders.until(deadline), LIMIT_SECONDS, scaling)
        return Regraded.of(job_id, available, len(stored), graded)

    return await slow.grader(body.grader).run(request, caller.project_id, run)
