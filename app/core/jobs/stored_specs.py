"""Reads the specs of stored jobs. While an installation is upgraded, a newer version may have written them."""

from typing import Any

from pydantic import ValidationError

from app.core.errors import GrouptuneError
from app.core.spec.job import JobSpec


class NewerJob(GrouptuneError):
    """A newer version of the server created this job. Try again: after the upgrade every server can read it."""

    status = 503
    code = "newer_version"


def read(job_id: str, stored: Any) -> JobSpec:
    """Return the spec of a job that is to be run. Raises `NewerJob` for one with fields or values that are unknown."""
    try:
        return JobSpec.model_validate(stored)
    except ValidationError as error:
        raise _newer(job_id) from error


def read_to_show(job_id: str, stored: Any) -> JobSpec:
    """Return the spec without its unknown fields. Raises `NewerJob` for unknown values."""
    try:
        return JobSpec.model_validate(stored, extra="ignore", context={"extra": "ignore"})
    except ValidationError as error:
        raise _newer(job_id) from error


def _newer(job_id: str) -> NewerJob:
    return NewerJob(
        f"A newer version of the server created job {job_id}. Try again: after the upgrade every server can read it."
    )
