"""Lints on the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.core.jobs.tables import Job
from app.core.lint.report import LintReport
from app.core.lint.run import why_not
from app.core.spec.graders import Grader
from app.core.spec.job import GroupMix, JobSpec


class LintFile(BaseModel):
    """What the file's answers are graded with, and the groups that they would be in."""

    model_config = ConfigDict(extra="forbid")

    grader: Grader
    group: GroupMix = GroupMix()
    remote: Annotated[
        bool,
        Field(description="Also with graders that ask another machine (judges, endpoints): each answer is a request."),
    ] = False


class FileLint(BaseModel):
    """What a file would teach."""

    object: Literal["file.lint"] = "file.lint"
    file_id: str
    summary: str
    report: LintReport


class JobLint(BaseModel):
    """What linting a job's training file found."""

    object: Literal["fine_tuning.job.lint"] = "fine_tuning.job.lint"
    job_id: str
    status: Literal["pending", "done", "none"] = Field(description="`none`: this job's file is not linted.")
    reason: str | None = Field(description="Why there is none.")
    summary: str | None
    report: LintReport | None

    @classmethod
    def of(cls, job: Job) -> "JobLint":
        """The wire form of what a job's row knows."""
        if job.lint is not None:
            report = LintReport.model_validate(job.lint)
            return cls(job_id=job.id, status="done", reason=None, summary=report.summary(), report=report)
        if job.lint_due and job.finished_at is None:
            return cls(job_id=job.id, status="pending", reason=None, summary=None, report=None)
        reason = why_not(JobSpec.model_validate(job.spec)) or "It ended before that, or its events say why."
        return cls(job_id=job.id, status="none", reason=reason, summary=None, report=None)
