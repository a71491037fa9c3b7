"""Imports every table, so that `Base.metadata` is complete for migrations."""

from app.core.accounts import tables as accounts
from app.core.db import Base
from app.core.evals import tables as evals
from app.core.exports import tables as exports
from app.core.files import tables as files
from app.core.inference import tables as inference
from app.core.jobs import tables as jobs
from app.core.models import tables as models
from app.core.teachers import tables as teachers
from app.core.webhooks import tables as webhooks
from app.core.workers import tables as workers

__all__ = [
    "accounts",
    "evals",
    "exports",
    "files",
    "inference",
    "jobs",
    "metadata",
    "models",
    "teachers",
    "webhooks",
    "workers",
]

metadata = Base.metadata
