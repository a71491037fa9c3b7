"""Fixtures over real engines: Postgres, Valkey, and a whole running installation.

`GROUPTUNE_TEST_DATABASE_URL` (a superuser's) names a Postgres that already runs, as CI may have one.
"""

import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from sqlalchemy import create_engine, make_url, text

from app.core import migrate
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.tables import metadata
from app.local.postgres import EmbeddedPostgres
from app.local.stack import Stack
from app.local.valkey import EmbeddedValkey
from tests import tiny_model
from tests.properties import register_profiles
from tests.s3_server import s3_server
from tests.trainer_server import trainer_server
from tests.waiting import WAIT_SECONDS, eventually
from tests.writable_hub import Hub, writable_hub

register_profiles()
os.environ.pop("PYTHONUNBUFFERED", None)  # users do not set it, so a test must not need it
for _phase in ("connect", "read", "write", "pool"):  # a server on a busy machine may need more than httpx's 5 s
    setattr(DEFAULT_TIMEOUT_CONFIG, _phase, WAIT_SECONDS)
gc.disable()  # until everything is imported: what that makes stays, and looking through it takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


SERVER: Final = "GROUPTUNE_TEST_DATABASE_URL"
TEMPLATE: Final = "grouptune_template"
"""A database at the newest schema, which workers of pytest-xdist copy."""
_SERVER: Final = pytest.StashKey[str]()
_RESOURCES: Final = pytest.StashKey[ExitStack]()


@contextmanager
def _short_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="gt-"))
    directory.chmod(0o711)  # a Postgres that root starts runs as another user, who must get through
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _postgres(directory: Path) -> Iterator[str]:
    """Run a Postgres for several test processes; yield its URL."""
    engine = EmbeddedPostgres(directory)
    engine.spec()  # creates the data directory
    with (engine.data_dir / "postgresql.conf").open("a") as settings:
        settings.write("max_connections = 300\n")
    with engine:
        yield engine.url


@contextmanager
def _new_database(server: str, name: str, template: str = "template1") -> Iterator[str]:
    """Create a database on the server; yield its URL."""
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        # Test data need not survive a power cut: no commit has to wait for the disk.
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Starts one Postgres for all workers of pytest-xdist, which start later."""
    resources = session.config.stash[_RESOURCES] = ExitStack()
    if session.config.pluginmanager.hasplugin("dsession") and SERVER not in os.environ:
        server = resources.enter_context(_postgres(resources.enter_context(_short_directory()) / "pg"))
        migrate.upgrade(resources.enter_context(_new_database(server, TEMPLATE)))
        session.config.stash[_SERVER] = server


@pytest.hookimpl(trylast=True)  # after the workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[_RESOURCES].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Passes the URL of the shared Postgres to a worker of pytest-xdist."""
    node.workerinput["postgres"] = node.config.stash.get(_SERVER, None)


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A directory with a short path: sockets have at most 107 bytes for theirs."""
    with _short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def shared_postgres(request: pytest.FixtureRequest) -> str | None:
    """URL of the Postgres that all workers of pytest-xdist use, with the database `TEMPLATE`."""
    return getattr(request.config, "workerinput", {}).get("postgres")


@pytest.fixture(scope="session")
def postgres(shared_postgres: str | None, short_dir: Path) -> Iterator[str]:
    """URL of a Postgres that runs."""
    running = os.environ.get(SERVER) or shared_postgres
    with nullcontext(running) if running else _postgres(short_dir / "pg") as url:
        yield url


@pytest.fixture
def empty_url(postgres: str) -> Iterator[str]:
    """URL of a database without a schema."""
    with _new_database(postgres, f"grouptune_empty_{os.getpid()}") as url:
        yield url


@pytest.fixture(scope="session")
def migrated_url(postgres: str, shared_postgres: str | None) -> Iterator[str]:
    """URL of a database of this process at the newest schema."""
    name = f"grouptune_test_{os.getpid()}"
    with _new_database(postgres, name, TEMPLATE if shared_postgres == postgres else "template1") as url:
        migrate.upgrade(url)
        yield url


@pytest.fixture(scope="session")
def broker_url(short_dir: Path) -> Iterator[str]:
    """URL of an empty Valkey."""
    with EmbeddedValkey(short_dir / "valkey") as valkey:
        yield valkey.url


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """Address of an S3-compatible server with an empty bucket."""
    with s3_server() as address:
        yield address


@pytest.fixture(scope="session")
def pooled_database(migrated_url: str) -> Iterator[Database]:
    """Keeps the connections that the tests of this process use one after the other."""
    database = Database(migrated_url)
    yield database
    database.dispose()


@pytest.fixture
def database(pooled_database: Database) -> Database:
    """An empty database at the newest schema."""
    # TRUNCATE would make new files for all tables and indexes, a hundred times the work. `replica` fires no triggers.
    deletions = "; ".join(str(table.delete()) for table in metadata.sorted_tables)

    def is_empty() -> bool:
        # A server may still write after its last response: then one of the two transactions fails with a deadlock.
        with suppress(DatabaseUnavailable), pooled_database.transaction() as session:
            session.execute(text(f"DO $$BEGIN SET LOCAL session_replication_role = replica; {deletions}; END$$"))
            return True
        return False

    eventually(is_empty)
    return pooled_database


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with the base model `tiny`."""
    directory = tmp_path_factory.mktemp("models")
    tiny_model.build(directory / "tiny")
    return directory


def _bootstrap(database_url: str, existing: str | None) -> str:
    database = Database(database_url)
    try:
        with database.transaction() as session:
            return ensure_bootstrap(session, existing)
    finally:
        database.dispose()


@pytest.fixture(scope="session")
def forked_trainers(short_dir: Path) -> Iterator[dict[str, str]]:
    """Variables of workers whose trainers start in milliseconds."""
    with trainer_server(short_dir / "trainers.sock") as environment:
        yield environment


@pytest.fixture(scope="session")
def shared_hub() -> Iterator[Hub]:
    """A hub that the fixture `stack` pushes to."""
    with writable_hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def stack(short_dir: Path, tiny_models: Path, shared_hub: Hub, forked_trainers: dict[str, str]) -> Iterator[Stack]:
    """A whole installation that runs: API and workers over engines of its own, with the base model `tiny`."""
    environment = {
        "GROUPTUNE_MODELS_DIR": str(tiny_models),
        "GROUPTUNE_MODEL_ALIASES": "gpt-4o-mini=tiny",
        "GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
        "GROUPTUNE_HUB_URL": shared_hub.url,
        "GROUPTUNE_TRACKERS": "tensorboard",
        "GROUPTUNE_LEASE_SECONDS": "6",
        "GROUPTUNE_TRAINER_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    with _RUNNING:
        patch = _RUNNING.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.MonkeyPatch.context() as starting:  # for its processes alone
            for name, value in forked_trainers.items():
                starting.setenv(name, value)
            running = Stack(short_dir / "stack", migrate=migrate.upgrade, bootstrap=_bootstrap, port=0)
            _RUNNING.enter_context(running)
        yield running


_RUNNING = ExitStack()
"""The installation of the fixture `stack`."""
SLOW = frozenset(
    {"plant", "stack", "tiny_models", "started", "cloud", "model_directory", "chat_directory", "serving_dirs"}
)
"""Fixtures of tests that start processes or compute models."""


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Files that start processes or take seconds go first, so that no core is idle while another one works them off.

    Those that share an installation go before the others: after them it can stop. Raises `UsageError` for two tests
    of one id, of which pytest-xdist would run only one.
    """
    if repeated := [node_id for node_id, count in Counter(item.nodeid for item in items).items() if count > 1]:
        raise pytest.UsageError(f"Several tests have the same id: {', '.join(repeated)}")
    sharing = {item.path for item in items if "stack" in _fixtures(item)}
    slow = {item.path for item in items if SLOW & _fixtures(item) or item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in sharing, item.path not in slow))
    session.stash[_SHARING] = sharing


_SHARING = pytest.StashKey[set[Path]]()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stops the shared installation after its last file: while idle it would take a twentieth of a core."""
    if nextitem is not None and nextitem.path not in item.session.stash[_SHARING]:
        _RUNNING.close()
