"""Migrations: upgrade, downgrade, upgrade again, and agreement with the table definitions."""

from alembic import command
from sqlalchemy import create_engine, inspect, text

from app.core import migrate
from app.core.accounts.scopes import ALL, DEFAULT
from app.core.tables import metadata


def _tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def _is_usable(url: str) -> bool:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return migrate.is_usable(connection)
    finally:
        engine.dispose()


def test_upgrade_downgrade_upgrade(migrated_url: str) -> None:
    expected = {table.name for table in metadata.sorted_tables}
    assert _tables(migrated_url) == expected
    assert _is_usable(migrated_url)

    command.downgrade(migrate.config(migrated_url), "base")
    assert _tables(migrated_url) == set()
    assert not _is_usable(migrated_url)

    migrate.upgrade(migrated_url)
    migrate.upgrade(migrated_url)
    assert _tables(migrated_url) == expected


def test_migrations_match_tables(migrated_url: str) -> None:
    command.check(migrate.config(migrated_url))


def test_keys_without_scopes_keep_their_rights(migrated_url: str) -> None:
    command.downgrade(migrate.config(migrated_url), "0001")
    engine = create_engine(migrated_url)
    try:
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE projects CASCADE"))
            connection.execute(text("INSERT INTO projects (id, name) VALUES ('proj_1', 'default')"))
            for name in ("bootstrap", "laptop"):
                values = {"id": name[:8], "name": name}
                connection.execute(
                    text(
                        "INSERT INTO api_keys (id, project_id, name, secret_hash, last4) "
                        "VALUES (:id, 'proj_1', :name, '\\x00', 'abcd')"
                    ),
                    values,
                )
        migrate.upgrade(migrated_url)
        with engine.begin() as connection:
            rows = connection.execute(text("SELECT name, scopes FROM api_keys ORDER BY name")).all()
        assert [(row.name, row.scopes) for row in rows] == [("bootstrap", list(ALL)), ("laptop", list(DEFAULT))]
    finally:
        engine.dispose()
