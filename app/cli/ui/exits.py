"""Exit codes, and the one place that turns exceptions into them."""

import sys
from enum import IntEnum
from itertools import takewhile
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from app.cli.ui.console import fail, print_errors_as_json
from app.client import ApiError, ServerUnreachable
from app.core.errors import GrouptuneError, InvalidRequest
from app.local.errors import LocalStackError


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
    """Turns the exceptions of a command into one line on standard error and an exit code.

    The line is JSON for commands with --json.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self._is_json = "--json" in takewhile(lambda word: word != "--", args)
        print_errors_as_json(self._is_json)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TyperException as error:  # a wrong use of the command, which Typer reports
            error.message = error.message.removeprefix("Value error, ")  # of pydantic, which Typer leaves there
            if not self._is_json:
                raise
            fail(getattr(error, "format_message", error.__str__)(), code="usage", kind=InvalidRequest.type)
            raise typer.Exit(ExitCode.usage) from None
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.interrupted) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader, such as `head`, has closed the pipe
            raise typer.Exit(ExitCode.error) from None
        except (GrouptuneError, LocalStackError, OSError) as error:
            param, code, kind = (getattr(error, name, None) for name in ("param", "code", "type"))
            fail(str(error), param=param, code=code, kind=kind or "client_error")
            raise typer.Exit(_code(error)) from None


def _code(error: Exception) -> ExitCode:
    if isinstance(error, ServerUnreachable) or (isinstance(error, ApiError) and error.is_unavailable):
        return ExitCode.unreachable
    if isinstance(error, NoCredentials) or (isinstance(error, ApiError) and error.http_status in _AUTH_STATUS):
        return ExitCode.auth
    return ExitCode.error
