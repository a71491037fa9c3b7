"""Checks of Postgres: reachable, safe settings, current schema, synchronous clock; and of the registered workers."""

import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from app.core import migrate
from app.core.db import Database
from app.core.doctor.finding import DoctorFinding, FindingLevel, failed, ok, warning
from app.core.errors import DatabaseUnavailable
from app.core.workers import presence

OLDEST: Final = 150_000
"""Postgres 15."""
FEW_CONNECTIONS: Final = 100
SKEW_SECONDS: Final = 5.0
BAD_SKEW_SECONDS: Final = 300.0
"""The tolerance of webhook signatures and ID tokens."""


QUEUES: Final = {"train": "jobs", "default": "validations, evals, exports and webhooks"}
"""Queue -> the work that waits while no worker consumes the queue."""


class _Setting(NamedTuple):
    name: str
    wrong: str
    level: FindingLevel
    meaning: str
    fix: str


_SETTINGS: Final = (
    _Setting(
        "fsync",
        "off",
        FindingLevel.failed,
        "a crash of the machine can destroy the database",
        "set fsync = on and restart it",
    ),
    _Setting(
        "full_page_writes",
        "off",
        FindingLevel.failed,
        "a crash of the machine can destroy the database",
        "set full_page_writes = on",
    ),
    _Setting(
        "synchronous_commit",
        "off",
        FindingLevel.warning,
        "the last accepted jobs are lost in a crash",
        "set synchronous_commit = on",
    ),
    _Setting(
        "data_checksums",
        "off",
        FindingLevel.warning,
        "damage on its disk goes unnoticed",
        "stop it and run pg_checksums --enable",
    ),
    _Setting(
        "default_transaction_read_only",
        "on",
        FindingLevel.failed,
        "nothing can be written",
        "set default_transaction_read_only = off for this role and database",
    ),
    _Setting(
        "transaction_read_only",
        "on",
        FindingLevel.failed,
        "nothing can be written",
        "name the primary server in DATABASE_URL",
    ),
)


def check(url: str, alive_seconds: float) -> Iterator[DoctorFinding]:
    """Run all checks; without a connection only the first. Heartbeats older than `alive_seconds` do not count."""
    try:
        parsed = make_url(url)
        database = Database(url, pool_size=1)
    except (ArgumentError, ModuleNotFoundError) as error:
        yield failed(
            "postgres",
            f"DATABASE_URL is not a valid URL ({error})",
            "write postgresql+psycopg://USER:PASSWORD@HOST/NAME",
        )
        return
    place = f"{parsed.host or parsed.query.get('host') or 'localhost'}/{parsed.database}"
    try:
        with database.transaction() as session:
            yield from _check(session, place, alive_seconds)
    except DatabaseUnavailable as error:
        reason = str(error.__cause__).strip().partition("\n(Background")[0] or error.message
        yield failed("postgres", f"{place} cannot be reached: {reason}", "start Postgres, or correct DATABASE_URL")
    finally:
        database.dispose()


def _check(session: Session, place: str, alive_seconds: float) -> Iterator[DoctorFinding]:
    rows = session.execute(text("SELECT name, setting FROM pg_settings"))
    settings: dict[str, str] = {row.name: row.setting for row in rows}
    flaws = list(_flaws(settings))
    yield from flaws or [ok("postgres", f"{place}, version {settings['server_version']}")]
    schema = _schema(session)
    yield schema
    yield _clock(session)
    if schema.level is FindingLevel.ok:
        yield _workers(session, alive_seconds)


def _flaws(settings: dict[str, str]) -> Iterator[DoctorFinding]:
    version = settings["server_version"]
    if int(settings["server_version_num"]) < OLDEST:
        yield failed("postgres", f"Postgres {version} is too old", "upgrade it to 15 or newer")
    if settings["server_encoding"] != "UTF8":
        yield failed(
            "postgres",
            f"the database's encoding is {settings['server_encoding']}",
            "create the database again with ENCODING 'UTF8' and restore a backup",
        )
    for setting in _SETTINGS:
        if settings.get(setting.name) == setting.wrong:
            yield DoctorFinding(
                "postgres", setting.level, f"{setting.name} is {setting.wrong}: {setting.meaning}", setting.fix
            )
    if int(settings["max_connections"]) < FEW_CONNECTIONS:
        yield warning(
            "postgres",
            f"max_connections is {settings['max_connections']}; the API and every worker use up to 30 each",
            "set max_connections = 300",
        )


def _schema(session: Session) -> DoctorFinding:
    current, newest = migrate.revision(session.connection()), migrate.head()
    if current == newest:
        return ok("migrations", f"the schema is {current}, the newest")
    if current is not None and not migrate.is_known(current):
        return failed(
            "migrations", f"the schema is {current}, newer than this version", "install the version that the API runs"
        )
    return failed("migrations", f"the schema is {current or 'empty'}, not {newest}", "run `grouptune db upgrade`")


def _clock(session: Session) -> DoctorFinding:
    begun = time.time()
    database_time: Any = session.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
    own_time = (begun + time.time()) / 2
    skew = float(database_time) - own_time
    message = f"this machine is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the database"
    if abs(skew) >= BAD_SKEW_SECONDS:
        return failed(
            "clock", f"{message}: webhooks, ID tokens and S3 requests are rejected", "synchronise both clocks (NTP)"
        )
    if abs(skew) >= SKEW_SECONDS:
        return warning("clock", message, "synchronise both clocks (NTP)")
    return ok("clock", message)


def _workers(session: Session, alive_seconds: float) -> DoctorFinding:
    alive = [seen for seen in presence.list_workers(session, alive_seconds) if seen.is_alive]
    queues = {queue for seen in alive for queue in seen.worker.queues}
    if missing := sorted(QUEUES.keys() - queues):
        waiting = " and ".join(QUEUES[queue] for queue in missing)
        fix = f"start a worker for the queue {' and one for '.join(missing)}: `grouptune up`, or see docs/operations.md"
        return warning("workers", f"no worker consumes the queue {' or '.join(missing)}, so {waiting} are delayed", fix)
    if prevented := [seen.worker for seen in alive if seen.is_prevented]:
        problem = f"{', '.join(worker.name for worker in prevented)}: no jobs are taken"
        return warning("workers", problem, str(prevented[0].problem))
    names = ", ".join(f"{seen.worker.name} ({'+'.join(seen.worker.queues)}, {seen.hardware.device})" for seen in alive)
    return ok("workers", f"{len(alive)} running: {names}")
