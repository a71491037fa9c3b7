"""`grouptune db`: the schema of an installation with a Postgres of its own; backups of every installation."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.cli import configuration
from app.cli.files.commands import human_bytes
from app.cli.ui.console import Steps, err, fail, note, write_line
from app.cli.ui.exits import ExitCode
from app.cli.up import InstallationDir
from app.core.errors import BadSetup

if TYPE_CHECKING:
    from app.core.settings import Settings

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    """Look after the database."""


@app.command()
def upgrade() -> None:
    """Bring the schema of DATABASE_URL to the newest version. `grouptune up` does so by itself."""
    import_module("app.cli.installation").upgrade(_url("The embedded Postgres is upgraded by `grouptune up`."))
    note("The schema is current.")


@app.command("admin-key")
def admin_key() -> None:
    """Mint an API key with every scope in DATABASE_URL and print it: the first one, or when all others are lost."""
    url = _url("`grouptune up` keeps a key of its own in the state directory.")
    text = import_module("app.cli.installation").bootstrap(url, None)
    note("A key of project default with every scope. It is shown once; mint others with it: grouptune keys create.")
    write_line(text)


@app.command()
def dump(
    path: Annotated[Path, typer.Argument(help="The backup: one file, a tar.", dir_okay=False)],
    state_dir: InstallationDir = None,
) -> None:
    """Back up the database and every blob that it names, while the service runs or while it is stopped.

    The exit code is 1 when a blob is missing or has changed; the backup then holds everything else.
    """
    if path.exists():
        raise BadSetup(f"{path} is there already; choose another name.")
    config = for_installation(state_dir)
    if config.database_url is None and not import_module("app.local.database").has_database(config.state_dir):
        raise BadSetup(f"There is no installation in {config.state_dir}; set DATABASE_URL or --state-dir.")
    with database_of(config) as url, _bar("Backing up") as tell:
        dumped = import_module("app.cli.db.backups").dump(url, config, path, tell)
    for problem in dumped.problems:
        fail(problem)
    note(f"{dumped.blobs:,} blobs and the database: {human_bytes(dumped.bytes)}.")
    note("The keys that encrypt webhook secrets are not in it (GROUPTUNE_SECRET_KEYS): keep them in another place.")
    write_line(str(path))
    if dumped.problems:
        raise typer.Exit(ExitCode.error)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(help="What `grouptune db dump` wrote.", exists=True, dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Throw away what the database holds.")] = False,
    state_dir: InstallationDir = None,
) -> None:
    """Put a backup back into an empty installation. Stop the API and the workers before.

    Nothing changes unless all of it is right. The exit code is 1 when what was backed up had flaws itself.
    """
    config = for_installation(state_dir)
    with database_of(config, alone=True) as url:
        with _bar("Restoring") as tell:
            restored = import_module("app.cli.db.backups").restore(url, config, path, tell, replace=replace)
        found = import_module("app.cli.installation").breaches(url, config)
    for breach in found:
        fail(f"{breach.subject}: it does not hold that {breach.invariant}")
    made = restored.manifest
    note(f"Restored {restored.blobs:,} blobs and the database as of {made.created_at:%Y-%m-%d %H:%M:%S} UTC.")
    note("Running jobs go on from their last checkpoints once workers are there. `grouptune doctor` checks the rest.")
    if found:
        raise typer.Exit(ExitCode.error)


def for_installation(state_dir: Path | None) -> "Settings":
    """The configuration, with another state directory if one was asked for."""
    config = configuration.load()
    return config if state_dir is None else config.model_copy(update={"state_dir": state_dir.absolute()})


@contextmanager
def database_of(config: "Settings", *, alone: bool = False) -> Iterator[str]:
    """DATABASE_URL, else that of the embedded Postgres, which is started if need be (for `alone` always)."""
    if config.database_url is not None:
        yield config.database_url
        return
    embedded_url = import_module("app.local.database").embedded_url
    with Steps() as progress, embedded_url(config.state_dir.absolute(), progress, alone=alone) as url:
        progress.settle()
        yield url


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """A callback for `app.core.backup.dump.Progress`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[size]}"))
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None, size="")
        yield lambda at: bar.update(task, total=at.total, completed=at.done, size=human_bytes(at.bytes))


def _url(otherwise: str) -> str:
    """DATABASE_URL. Raises `BadSetup` without one, which says what holds for the embedded Postgres."""
    url = configuration.load().database_url
    if url is None:
        raise BadSetup(f"Set DATABASE_URL. {otherwise}")
    return url
