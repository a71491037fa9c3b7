"""A new worker waits for the schema that it needs: it may start before the migrations have run."""

import time
from typing import Final

import structlog

from app.core import migrate
from app.core.db import Database
from app.core.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0


def wait_for_schema(database: Database) -> None:
    """Block until the database is available and its schema is at least this version's."""
    shown = ""
    while problem := _problem(database):
        if problem != shown:
            log.warning("worker.waits_for_schema", reason=problem)
            shown = problem
        time.sleep(POLL_SECONDS)


def _problem(database: Database) -> str:
    try:
        with database.reading() as session:
            usable = migrate.is_usable(session.connection())
    except DatabaseUnavailable as error:
        return error.message
    return "" if usable else "the schema is older than this version; run `grouptune db upgrade`"
