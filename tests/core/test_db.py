"""Transactions are atomic, and every kind of database failure has its own error."""

from contextlib import ExitStack

import pytest
from sqlalchemy import func, select, text

from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, Overloaded, Unstorable
from tests.setup_jobs import make_project


def test_exception_rolls_back_the_transaction(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as session:
            make_project(session)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Project)) == 0


def test_exhausted_pool_is_overloaded(migrated_url: str) -> None:
    small = Database(migrated_url, pool_size=1, pool_wait_seconds=0.01)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(small.transaction()).execute(text("SELECT 1"))
        with pytest.raises(Overloaded) as caught, small.transaction() as session:
            session.execute(text("SELECT 1"))
    assert isinstance(caught.value, DatabaseUnavailable)
    small.dispose()


def test_lost_connection_is_unavailable(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable), database.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with database.transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_idle_transaction_releases_its_locks(database: Database, migrated_url: str) -> None:
    with database.transaction() as session:
        project_id = make_project(session)
    stopped = Database(migrated_url, pool_size=1, idle_seconds=0.2)
    locked_row = select(Project).where(Project.id == project_id).with_for_update()

    def stop_and_continue() -> None:
        with stopped.transaction() as session:
            session.execute(locked_row)
            with database.transaction() as other:
                other.execute(text("SET LOCAL lock_timeout = '20s'"))
                other.execute(locked_row)  # waits until the server ends the first transaction
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        stop_and_continue()
    stopped.dispose()


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_unstorable_text_is_a_request_error(database: Database, name: str) -> None:
    with pytest.raises(Unstorable), database.transaction() as session:
        make_project(session, name)
