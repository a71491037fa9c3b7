"""`/v1/fine_tuning/alpha/graders`: validate a grader, and run it on an answer, before a job uses it."""

import time

from fastapi import APIRouter

from app.api.deps import Config, Graders
from app.api.schemas.graders import GraderRun, RunGrader, ValidateGrader, ValidGrader
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.graders.run import grade
from app.core.jobs.grader_services import check_services

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["Graders"])


@router.post("/validate", dependencies=[needs(Scope.jobs_write)])
def validate_grader(body: ValidateGrader, settings: Config) -> ValidGrader:
    """Validate a grader: its fields, templates, formula, source, schema or pattern, and its judge. Nothing is run."""
    check_services(body.grader, "grader", settings.judge_url, settings.private_hosts)
    return ValidGrader(grader=body.grader.model_dump(mode="json", by_alias=True, exclude_none=True))


@router.post("/run", dependencies=[needs(Scope.jobs_write)])
def run_grader(body: RunGrader, graders: Graders) -> GraderRun:
    """Grade one answer exactly as a job would."""
    started = time.perf_counter()
    graded = grade(body.grader, body.as_sample(), body.item, graders)
    return GraderRun.of(body.grader, graded, time.perf_counter() - started)
