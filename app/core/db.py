"""Engine, transactions and the declarative base. Core never commits: open `transaction()` at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy import MetaData, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
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

    def __init__(self, url: str, *, pool_size: int = 10, pool_wait_seconds: float = 10.0) -> None:
        """At most three times `pool_size` connections; a transaction waits so long for a free one."""
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size * 2,
            pool_pre_ping=True,
            pool_timeout=pool_wait_seconds,
            # A database without an encoding (SQL_ASCII) would else answer in bytes.
            connect_args={"connect_timeout": 5, "application_name": "grouptune", "client_encoding": "utf8"},
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back by any exception.

        Raises `DatabaseUnavailable` when Postgres cannot be reached or goes away meanwhile, `Overloaded` when no
        connection gets free, `Unstorable` for text that Postgres does not take.
        """
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (OperationalError, InterfaceError) as error:
            raise DatabaseUnavailable from error
        except PoolTimeout as error:
            raise Overloaded from error
        except (DataError, UnicodeEncodeError) as error:  # NUL, and half of a surrogate pair
            raise Unstorable from error

    def dispose(self) -> None:
        """Closes the pool."""
        self.engine.dispose()
