"""Exit codes, and the one place that turns exceptions into them."""

import sys
from enum import IntEnum
from typing import Any, Final

import typer
from typer.core import TyperGroup

from app.cli.ui.console import fail
from app.client import ApiError, ServerUnreachable
from app.core.errors import GrouptuneError
from app.local.process import LocalStackError


class ExitCode(IntEnum):
    """Exit codes of `grouptune`, so that scripts can distinguish outcomes."""

    ok = 0
    error = 1
    usage = 2
    timeout = 3
    """The wait timed out; the job continues."""
    auth = 4
    job_failed = 5
    job_cancelled = 6
    gate_failed = 7
    """Training succeeded, but a held-out result missed a gate."""
    unreachable = 8
    interrupted = 130


AFTER_JOB: Final = {
    "succeeded": ExitCode.ok,
    "failed": ExitCode.job_failed,
    "cancelled": ExitCode.job_cancelled,
}
"""Terminal status of a job to the exit code of a command that waited for it."""


def after_job(job: dict[str, Any]) -> ExitCode:
    """Return the exit code of a command that waited for this job."""
    has_missed_gate = job["error"] is not None and job["error"]["code"] == "gate_failed"
    return ExitCode.gate_failed if has_missed_gate else AFTER_JOB[job["status"]]


_AUTH_STATUS: Final = (401, 403)


class NoCredentials(GrouptuneError):
    """No API key. Set GROUPTUNE_API_KEY to a key of the server at GROUPTUNE_URL."""

    code = "no_credentials"


class ErrorBoundary(TyperGroup):
    """Turns the exceptions of a command into one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.interrupted) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader, such as `head`, has closed the pipe
            raise typer.Exit(ExitCode.error) from None
        except (GrouptuneError, LocalStackError, OSError) as error:
            fail(str(error), param=getattr(error, "param", None))
            raise typer.Exit(_code(error)) from None


def _code(error: Exception) -> ExitCode:
    if isinstance(error, ServerUnreachable) or (isinstance(error, ApiError) and error.is_unavailable):
        return ExitCode.unreachable
    if isinstance(error, NoCredentials) or (isinstance(error, ApiError) and error.http_status in _AUTH_STATUS):
        return ExitCode.auth
    return ExitCode.error
