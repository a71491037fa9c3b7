"""Public ids: a prefix that says what it names and 24 random characters."""

import secrets
import string
from typing import Final

ALPHABET: Final = string.ascii_letters + string.digits
LENGTH: Final = 24


def _new(prefix: str) -> str:
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def job_id() -> str:
    """A fine-tuning job, `ftjob-...`."""
    return _new("ftjob-")


def file_id() -> str:
    """An uploaded file, `file-...`."""
    return _new("file-")


def event_id() -> str:
    """An event of a job, `ftevent-...`."""
    return _new("ftevent-")


def checkpoint_id() -> str:
    """A checkpoint of a job, `ftckpt_...`."""
    return _new("ftckpt_")


def project_id() -> str:
    """A project, `proj_...`."""
    return _new("proj_")


def audit_id() -> str:
    """An entry of the audit log, `audit_...`."""
    return _new("audit_")


def key_id() -> str:
    """An API key's public id: eight characters, part of the key's own text."""
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


def request_id() -> str:
    """A request, `req_...`; becomes the `x-request-id` header."""
    return _new("req_")


def fine_tuned_model(base_model: str, project: str, suffix: str | None) -> str:
    """`ft:<base>:<project>:<suffix>:<8 characters>`; without a suffix its place stays empty."""
    tail = "".join(secrets.choice(ALPHABET) for _ in range(8))
    return f"ft:{base_model}:{project}:{suffix or ''}:{tail}"
