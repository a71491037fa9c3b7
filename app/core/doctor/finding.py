"""What a check says."""

from dataclasses import dataclass
from enum import StrEnum


class FindingLevel(StrEnum):
    """How bad it is."""

    ok = "ok"
    warning = "warning"
    """It works, but not as well or as safely as it should."""
    failed = "failed"
    """Jobs or clients fail because of it."""


@dataclass(frozen=True)
class DoctorFinding:
    """One line of the report."""

    check: str
    """Stable name of the check, `postgres`, `disk`, ..."""
    level: FindingLevel
    message: str
    """What is so."""
    fix: str | None = None
    """What to do about it; None when nothing is wrong."""


def ok(check: str, message: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.ok, message)


def warning(check: str, message: str, fix: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.warning, message, fix)


def failed(check: str, message: str, fix: str) -> DoctorFinding:
    return DoctorFinding(check, FindingLevel.failed, message, fix)
