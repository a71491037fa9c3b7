"""The result of a check."""

from dataclasses import dataclass
from enum import StrEnum


class FindingLevel(StrEnum):
    """Severity of a finding."""

    ok = "ok"
    warning = "warning"
    """It works, but less well or less safely than it should."""
    failed = "failed"
    """Jobs or clients fail because of it."""


@dataclass(frozen=True)
class DoctorFinding:
    """One finding: a line of the report."""

    check: str
    """Stable name of the check, `postgres`, `disk`, ..."""
    level: FindingLevel
    message: str
    """What the check found."""
    fix: str | None = None
    """How to fix it; None when nothing is wrong."""


def ok(check: str, message: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.ok, message)


def warning(check: str, message: str, fix: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.warning, message, fix)


def failed(check: str, message: str, fix: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.failed, message, fix)
