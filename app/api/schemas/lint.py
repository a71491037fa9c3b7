"""Bodies of the lint routes."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from app.core.jobs import stored_specs
from app.core.jobs.tables import Job
from app.core.lint.report import LintReport
from app.core.lint.run import WHILE_WAITING, why_not
from app.core.spec.described import Described
from app.core.spec.graders import Grader
from app.core.spec.job import GroupMix


class LintFile(Described):
    """The grader, and the groups that the file's answers would be in."""

    model_config = ConfigDict(extra="forbid")

    grader: Grader
    """Grades the answers of the file."""
    group: GroupMix = GroupMix()
    """The largest number of members per source in a group, as in a job."""
    answers: Annotated[int, Field(ge=1, le=WHILE_WAITING.answers)] = WHILE_WAITING.answers
    """Approximate maximum of graded answers; a larger file is sampled."""
    remote: Annotated[
        bool,
        Field(description="Allow graders that call another server (judges, endpoints). Each answer costs a request."),
    ] = False


class FileLint(Described):
    """Lint report of a file."""

    object: Literal["file.lint"] = "file.lint"
    file_id: str
    """The file."""
    summary: str
    """The report in one sentence."""
    offer: str | None
    """Offers to train without the demonstrations that do not pass; null if all or none pass."""
    report: LintReport
    """The report."""


class JobLint(Described):
    """The lint report of a job's training file."""

    object: Literal["fine_tuning.job.lint"] = "fine_tuning.job.lint"
    job_id: str
    """The job."""
    status: Literal["pending", "done", "none"] = Field(description="`none`: the job's file is not linted.")
    reason: str | None = Field(description="Why the status is `none`.")
    summary: str | None
    """The report in one sentence; null unless the status is `done`."""
    offer: str | None
    """Offers to train without the demonstrations that do not pass; null if the job does so, and if all or none pass."""
    report: LintReport | None
    """The report; null unless the status is `done`."""

    @classmethod
    def of(cls, job: Job) -> "JobLint":
        """Return the wire form of a job's lint state."""
        spec = stored_specs.read_to_show(job.id, job.spec)
        if job.lint is not None:
            report = LintReport.model_validate(job.lint)
            offer = None if spec.grades_demonstrations else report.offer()
            return cls(job_id=job.id, status="done", reason=None, summary=report.summary(), offer=offer, report=report)
        if job.lint_due and job.finished_at is None:
            return cls(job_id=job.id, status="pending", reason=None, summary=None, offer=None, report=None)
        reason = why_not(spec) or "The job ended before its file was linted, or its events say why."
        return cls(job_id=job.id, status="none", reason=reason, summary=None, offer=None, report=None)
