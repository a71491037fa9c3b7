"""`/v1/fine_tuning/alpha/graders`: validate a grader, and run it on an answer, before a job uses it."""

import time

from fastapi import APIRouter, Request

from app.api.deps import Config, Graders, Slow, Strict
from app.api.schemas.graders import GraderRun, RunGrader, ValidateGrader, ValidGrader
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.graders.run import grade
from app.core.jobs.grader_services import check_services

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["Graders"])


@router.post("/validate", dependencies=[needs(Scope.jobs_write)], response_model_exclude_unset=True)
def validate_grader(body: ValidateGrader, settings: Config, strict: Strict = False) -> ValidGrader:
    """Validate a grader: its fields, templates, formula, source, schema or pattern, and its judge. Nothing is run."""
    check_services(body.grader, "grader", settings.judge_url, settings.private_hosts)
    return ValidGrader.of(body.grader, strict=strict)


@router.post("/run", dependencies=[needs(Scope.jobs_write)])
async def run_grader(request: Request, caller: Caller, body: RunGrader, graders: Graders, slow: Slow) -> GraderRun:
    """Grade one answer exactly as a job would, within 50 seconds."""

    def run(deadline: Deadline) -> GraderRun:
        started = time.perf_counter()
        graded = grade(body.grader, body.as_sample(), body.item, graders.until(deadline))
        return GraderRun.of(body.grader, graded, time.perf_counter() - started)

    return await slow.grader(body.grader).run(request, caller.project_id, run)
