"""Turns every failure of a check into a finding, so that the report always reaches its end."""

from collections.abc import Callable, Iterable, Iterator

from app.cli.ui.hints import suggest
from app.core.doctor.finding import DoctorFinding, failed
from app.core.errors import GrouptuneError


def guarded(check: str, findings: Callable[[], Iterable[DoctorFinding]]) -> Iterator[DoctorFinding]:
    """Yield the findings; if the check itself fails, a finding that says why it could not look."""
    try:
        yield from findings()
    except Exception as error:  # every other check must still run
        fix = f"fix that and run `{suggest('doctor')}` again; report a bug if nothing explains it"
        yield failed(check, f"it could not be checked: {reason(error)}", fix)


def reason(error: Exception) -> str:
    """Return one line that explains an error of a library, without the statement that caused it."""
    if isinstance(error, GrouptuneError):
        return error.message
    lines = str(getattr(error, "orig", None) or error).strip().splitlines() or ["no message"]
    return f"{lines[0]} ({type(error).__name__})"
