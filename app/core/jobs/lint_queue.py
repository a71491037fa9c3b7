"""The queue of lints: which training files to lint, and the results. The lint itself is `app.core.lint`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.files.validation_report import FileReport
from app.core.jobs import stored_specs
from app.core.jobs.events import Event, append, clean
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.stored_specs import NewerJob
from app.core.jobs.tables import Job
from app.core.lint.report import LintReport
from app.core.lint.run import why_not
from app.core.lint.training_signal import Tally
from app.core.spec.job import GroupMethod, JobSpec

log = structlog.get_logger(__name__)

CLAIM_SECONDS: Final = 150.0
"""Longer than a lint takes. After this time another worker may take over from a worker that died."""

# Jobs that cannot start before their lint come first, then the oldest. `lint_until` is the claim: it expires, and its
# value identifies the claim when the worker settles it.
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
    """A claimed lint of a job's training file. `until` identifies the claim."""

    job_id: str
    spec: JobSpec
    blob: str
    counts: FileReport
    until: datetime


def is_due(spec: JobSpec) -> bool:
    """Return whether the training file of a new job has to be linted."""
    return why_not(spec) is None


def decides(spec: JobSpec) -> bool:
    """Return whether the lint can refuse the job. Answers of a teacher or rollouts could still give groups contrast."""
    return is_due(spec) and (spec.grades_demonstrations or _needs_contrast(spec))


def _needs_contrast(spec: JobSpec) -> bool:
    """Return whether the known answers alone must give groups contrast."""
    return isinstance(spec.settings, GroupMethod) and not spec.group.self_ and spec.teacher is None


def is_settled(spec: JobSpec, totals: Tally | LintReport) -> bool:
    """Return whether the answers graded so far show that the lint will not refuse the job."""
    can_pass = totals.has_pass or not spec.grades_demonstrations
    return can_pass and (totals.has_signal or not _needs_contrast(spec))


def check(job: Job) -> None:
    """Raise `InvalidRequest` if the job's lint found that the job would train nothing."""
    if job.lint is not None:
        refuse_if_nothing(LintReport.model_validate(job.lint), stored_specs.read(job.id, job.spec))


def refuse_if_nothing(report: LintReport, spec: JobSpec) -> None:
    """Raise `InvalidRequest` if no group can have contrast, or if no demonstration passes that would be trained."""
    if spec.grades_demonstrations and report.has_no_pass:
        raise InvalidRequest(
            f"No demonstration passes the grader, so no demonstration is left to train. {report.summary()}. Change the "
            "grader or its `pass_threshold`, correct the demonstrations, or use `demonstrations` 'all'.",
            param=f"method.{spec.method}.demonstrations",
            code="no_demonstration_passes",
        )
    if report.teaches_nothing and is_due(spec) and _needs_contrast(spec):
        raise InvalidRequest(report.refusal(), param=f"method.{spec.method}.group", code="no_contrast")


def any_due(session: Session) -> bool:
    """Return whether an unclaimed lint is due. Its file may not be validated yet."""
    free = (Job.lint_until.is_(None)) | (Job.lint_until < func.now())
    due = select(Job.id).where(Job.lint_due, Job.status.not_in(TERMINAL), free)
    return session.scalar(select(due.exists())) is True


def claim_next(session: Session) -> LintClaim | None:
    """Claim the next due lint whose file is validated; None if no lint is due."""
    values = {"seconds": CLAIM_SECONDS, "terminal": [str(status) for status in TERMINAL]}
    while (row := session.execute(_CLAIM, values).one_or_none()) is not None:
        try:
            spec = stored_specs.read(row.id, row.spec)
        except NewerJob as error:  # a newer worker lints it once this claim has expired
            log.warning("lint.skipped", job=row.id, reason=error.message)
            continue
        return LintClaim(row.id, spec, row.blob, FileReport.model_validate(row.report), row.lint_until)
    return None


def settle(session: Session, claim: LintClaim, report: LintReport | None, event: Event) -> bool:
    """Store the report (None for a file that could not be linted) and append the event.

    Returns False and changes nothing if the job has ended or another worker took over the lint.
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
