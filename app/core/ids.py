"""Public ids: a prefix for the kind of object, and 24 random characters."""

import secrets
import string
from typing import Final

ALPHABET: Final = string.ascii_letters + string.digits
LENGTH: Final = 24
_IDS: Final = len(ALPHABET) ** LENGTH
FINE_TUNED: Final = "ft:"
"""Prefix of the names of trained models."""


def _new(prefix: str) -> str:
    number, digits = secrets.randbelow(_IDS), []
    for _ in range(LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return prefix + "".join(digits)


def job_id() -> str:
    """A fine-tuning job, `ftjob-...`."""
    return _new("ftjob-")


def file_id() -> str:
    """An uploaded file, `file-...`."""
    return _new("file-")


def upload_id() -> str:
    """An upload in parts, `upload_...`."""
    return _new("upload_")


def part_id() -> str:
    """A part of an upload, `part_...`."""
    return _new("part_")


def event_id() -> str:
    """An event of a job, `ftevent-...`."""
    return _new("ftevent-")


def checkpoint_id() -> str:
    """A checkpoint of a job, `ftckpt_...`."""
    return _new("ftckpt_")


def permission_id() -> str:
    """A permission to use another project's checkpoint, `cp_...`."""
    return _new("cp_")


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
    """A request, `req_...`, sent as the header `x-request-id`."""
    return _new("req_")


def fine_tuned_model(base_model: str, project: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<project>:<suffix>:<the job id's last 8 characters>`; without a suffix that field is empty."""
    return f"{FINE_TUNED}{base_model}:{project}:{suffix or ''}:{job_id[-8:]}"


def checkpoint_model(model: str, step: int) -> str:
    """The model name of a checkpoint of the job that trains `model`."""
    return f"{model}:ckpt-step-{step}"


def base_of(model: str) -> str:
    """The base model of `model`: itself, or the one that a fine-tuned model was trained on."""
    return model.split(":")[1] if model.startswith(FINE_TUNED) else model


def webhook_endpoint_id() -> str:
    """A webhook endpoint, `we_...`."""
    return _new("we_")


def webhook_delivery_id() -> str:
    """A delivery of an event to one endpoint, `wh_...`."""
    return _new("wh_")


def webhook_event_id() -> str:
    """A webhook event, `evt_...`."""
    return _new("evt_")


def teacher_key_id() -> str:
    """A project's key for a teacher, `tkey_...`."""
    return _new("tkey_")


def completion_id() -> str:
    """A completion of plain text, `cmpl-...`."""
    return _new("cmpl-")


def chat_completion_id() -> str:
    """An answer to a chat, `chatcmpl-...`."""
    return _new("chatcmpl-")


def response_id() -> str:
    """A response of the Responses API, `resp_...`."""
    return _new("resp_")


def export_id() -> str:
    """An export of a model, `export-...`."""
    return _new("export-")


def eval_id() -> str:
    """An eval, `eval_...`."""
    return _new("eval_")


def eval_run_id() -> str:
    """A run of an eval, `evalrun_...`."""
    return _new("evalrun_")


def oidc_trust_id() -> str:
    """A trust in a CI system's tokens, `trust_...`."""
    return _new("trust_")
