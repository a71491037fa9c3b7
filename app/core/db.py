"""Engine, transactions and the declarative base. Core never commits: open `transaction()` at the edge."""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final

from sqlalchemy import MetaData, create_engine, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, DisconnectionError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.errors import DatabaseUnavailable, Overloaded, Unstorable

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

_ENCODING: Final = {"client_encoding": "utf8"}
"""Without it a database without an encoding (SQL_ASCII) returns bytes."""
_IDLE_TOO_LONG: Final = "25P03"
_KEEPALIVE: Final = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""In seconds, the last one in milliseconds: a database machine that disappears is detected within a minute."""


class Base(DeclarativeBase):
    """Base of all tables; `dict` and `list` columns are JSONB."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSONB(),
        list[dict[str, Any]]: JSONB(),
        list[str]: JSONB(),
    }


class Database:
    """A connection pool and the transactions on it."""

    def __init__(
        self, url: str, *, pool_size: int = 10, pool_wait_seconds: float = 10.0, idle_seconds: float = 60.0
    ) -> None:
        """Open at most three times `pool_size` connections; a transaction waits `pool_wait_seconds` for a free one.

        Postgres ends a transaction that is idle for `idle_seconds`: the process or its machine may have stopped, and
        its locks would be held forever.
        """
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size * 2,
            pool_timeout=pool_wait_seconds,
            connect_args={"connect_timeout": 5, "application_name": "grouptune", **_ENCODING, **_KEEPALIVE},
        )
        event.listen(self.engine, "connect", partial(_limit_idle, round(idle_seconds * 1000)))
        event.listen(self.engine, "checkout", _check_alive)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction: committed at the end of the block, rolled back by any exception.

        Raises `DatabaseUnavailable` when Postgres cannot be reached or is lost during the block, `Overloaded` when no
        connection becomes free, `Unstorable` for text that Postgres does not accept.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a read-only session: each statement is its own transaction, which halves the round trips.

        Raises the same errors as `transaction`.
        """
        with _translated(), Session(self._autocommit, expire_on_commit=False, autoflush=False) as session:
            yield session

    def dispose(self) -> None:
        """Close the pool."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the library's errors into ours."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise DatabaseUnavailable from error
    except InternalError as error:
        if getattr(error.orig, "sqlstate", None) == _IDLE_TOO_LONG:
            raise DatabaseUnavailable from error
        raise
    except PoolTimeout as error:
        raise Overloaded from error
    except (DataError, UnicodeEncodeError) as error:  # NUL, and half of a surrogate pair
        raise Unstorable from error


def _limit_idle(milliseconds: int, connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    cursor.close()
    connection.commit()


def _check_alive(connection: DBAPIConnection, _record: object, _proxy: object) -> None:
    """Make the pool replace a connection that Postgres has closed, without a query to Postgres.

    Between statements nothing can be readable except the end of the connection, or the message that announces it.
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if poller.poll(0):
        raise DisconnectionError
