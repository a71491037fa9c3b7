"""The schema: up, down and up again, and nothing that the tables have and the migrations lack."""

from alembic import command
from sqlalchemy import create_engine, inspect

from app.core import migrate
from app.core.tables import metadata


def _tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_up_down_and_up_again(migrated_url: str) -> None:
    expected = {table.name for table in metadata.sorted_tables}
    assert _tables(migrated_url) == expected
    assert migrate.current_is_head(migrated_url)

    command.downgrade(migrate.config(migrated_url), "base")
    assert _tables(migrated_url) == set()
    assert not migrate.current_is_head(migrated_url)

    migrate.upgrade(migrated_url)
    migrate.upgrade(migrated_url)
    assert _tables(migrated_url) == expected


def test_migrations_describe_the_tables(migrated_url: str) -> None:
    command.check(migrate.config(migrated_url))
