"""Which jobs' training files are to be linted, and what became of it. The grading itself is `app.core.lint`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.files.validation_report import FileReport
from app.core.jobs.events import Event, append, clean
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Job
from app.core.lint.report import LintReport
from app.core.lint.run import why_not
from app.core.spec.job import JobSpec

CLAIM_SECONDS: Final = 150.0
"""More than a lint takes; a worker that died holds it up no longer."""

# A job that waits for its lint comes first.
_CLAIM: Final = text(
    """
    UPDATE jobs SET lint_until = now() + make_interval(secs => :seconds)
    FROM files
    WHERE files.id = jobs.training_file AND jobs.id = (
        SELECT j.id FROM jobs AS j JOIN files AS f ON f.id = j.training_file AND f.project_id = j.project_id
        WHERE j.lint_due AND j.status <> ALL (:terminal) AND (j.lint_until IS NULL OR j.lint_until < now())
          AND f.status = 'processed' AND f.report IS NOT NULL
        ORDER BY j.status = 'validating_files' DESC, j.created_at, j.id
        FOR UPDATE OF j SKIP LOCKED
        LIMIT 1
    )
    RETURNING jobs.id, jobs.spec, jobs.lint_until, COALESCE(files.rows_blob, files.blob) AS blob, files.report
    """
)


@dataclass(frozen=True)
class LintClaim:
    """One file to lint for a job; `until` tells this claim from any other."""

    job_id: str
    spec: JobSpec
    blob: str
    counts: FileReport
    until: datetime


def is_due(spec: JobSpec) -> bool:
    """Whether a new job's training file is to be linted."""
    return why_not(spec) is None


def decides(spec: JobSpec) -> bool:
    """Whether the lint can refuse the job: with answers that are yet to come every group may have contrast."""
    return is_due(spec) and not spec.group.self_ and spec.teacher is None


def check(job: Job) -> None:
    """Raises `InvalidRequest` when the job's lint says that it would train nothing."""
    if job.lint is not None:
        refuse_if_nothing(LintReport.model_validate(job.lint), JobSpec.model_validate(job.spec))


def refuse_if_nothing(report: LintReport, spec: JobSpec) -> None:
    """Raises `InvalidRequest` when no group can have contrast."""
    if report.teaches_nothing and decides(spec):
        raise InvalidRequest(report.refusal(), param=f"method.{spec.method}.group", code="no_contrast")


def any_due(session: Session) -> bool:
    """Whether a job waits for a lint that nobody works on. Its file may not be validated yet."""
    free = (Job.lint_until.is_(None)) | (Job.lint_until < func.now())
    due = select(Job.id).where(Job.lint_due, Job.status.not_in(TERMINAL), free)
    return session.scalar(select(due.exists())) is True


def claim_next(session: Session) -> LintClaim | None:
    """Takes the next job whose file is validated; None when there is none."""
    values = {"seconds": CLAIM_SECONDS, "terminal": [str(status) for status in TERMINAL]}
    row = session.execute(_CLAIM, values).one_or_none()
    if row is None:
        return None
    spec, counts = JobSpec.model_validate(row.spec), FileReport.model_validate(row.report)
    return LintClaim(row.id, spec, row.blob, counts, row.lint_until)


def settle(session: Session, claim: LintClaim, report: LintReport | None, event: Event) -> bool:
    """Stores the report, None for a file that could not be linted.

    False, and no change, when another worker took over or the job has ended meanwhile.
    """
    stored = None if report is None else clean(report.model_dump(mode="json", by_alias=True))
    settled = session.scalar(
        update(Job)
        .where(Job.id == claim.job_id, Job.lint_due, Job.lint_until == claim.until, Job.status.not_in(TERMINAL))
        .values(lint=stored, lint_due=False, lint_until=None)
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    )
    if settled is None:
        return False
    append(session, claim.job_id, event)
    return True
