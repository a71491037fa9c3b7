"""`grouptune db`: schema and first API key for an external Postgres, backups for every installation."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.cli.connection import load_settings
from app.cli.machine import require_linux
from app.cli.ui.console import StatusLine, err, fail, note, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.formatting import human_bytes
from app.cli.ui.hints import suggest
from app.cli.ui.options import InstallationDir
from app.core.errors import BadSetup
from app.core.plurals import plural

if TYPE_CHECKING:
    from app.core.settings import Settings

app = typer.Typer(help="Upgrade, back up and restore the database.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    """Upgrade, back up and restore the database."""


@app.command()
def upgrade() -> None:
    """Upgrade the schema of the database at DATABASE_URL. `grouptune up` does this automatically."""
    url = _url("`grouptune up` upgrades the embedded Postgres automatically.")
    import_module("app.cli.installation").upgrade(url)
    note("The schema is up to date.")


@app.command("admin-key")
def admin_key() -> None:
    """Create and print an API key with every scope. Needs DATABASE_URL.

    Use it for the first key, or when all other keys are lost.
    """
    url = _url("`grouptune up` keeps its own API key in the state directory.")
    text = import_module("app.cli.installation").bootstrap(url, None)
    note(
        "This key of project default has every scope. It is shown only once. Create others: grouptune keys create NAME."
    )
    write_line(text)


@app.command()
def dump(
    path: Annotated[Path, typer.Argument(help="Backup file to write (a tar archive).", dir_okay=False)],
    state_dir: InstallationDir = None,
) -> None:
    """Back up the database and every blob it refers to. Works while the service runs or is stopped.

    Exit with code 1 if a blob is missing or damaged; the backup then contains everything else.
    """
    require_linux("`grouptune db`")
    if path.exists():
        raise BadSetup(f"{path} exists already. Choose another name.")
    config = load_settings(state_dir)
    if config.database_url is None and not import_module("app.local.database").has_database(config.state_dir):
        raise BadSetup(f"{config.state_dir} contains no installation. Set DATABASE_URL or --state-dir.")
    with database_of(config) as url, _bar("Backing up") as progress:
        dumped = import_module("app.cli.db.backups").dump(url, config, path, progress)
    for problem in dumped.problems:
        fail(problem)
    note(f"Backed up the database and {plural(dumped.blobs, 'blob')}: {human_bytes(dumped.bytes)}.")
    note("The backup does not contain GROUPTUNE_SECRET_KEYS, which encrypt webhook secrets. Store them separately.")
    write_line(str(path))
    if dumped.problems:
        raise typer.Exit(ExitCode.error)


@app.command()
def restore(
    path: Annotated[
        Path, typer.Argument(help="Backup file written by `grouptune db dump`.", exists=True, dir_okay=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the contents of the database.")] = False,
    state_dir: InstallationDir = None,
) -> None:
    """Restore a backup into an empty installation. Stop the API and the workers first.

    The database changes only if the whole backup is valid. Exit with code 1 if the restored data breaks an invariant.
    """
    require_linux("`grouptune db`")
    config = load_settings(state_dir)
    with database_of(config, alone=True) as url:
        with _bar("Restoring") as progress:
            restored = import_module("app.cli.db.backups").restore(url, config, path, progress, replace=replace)
        breaches = import_module("app.cli.installation").breaches(url, config)
    for breach in breaches:
        fail(f"{breach.subject}: violated invariant: {breach.invariant}")
    manifest = restored.manifest
    note(
        f"Restored the database and {plural(restored.blobs, 'blob')} as of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC."
    )
    note(
        "Running jobs resume from their last checkpoints once workers start. "
        f"Check the rest with `{suggest('doctor')}`."
    )
    if breaches:
        raise typer.Exit(ExitCode.error)


@contextmanager
def database_of(config: "Settings", *, alone: bool = False) -> Iterator[str]:
    """Yield DATABASE_URL, else the URL of the embedded Postgres, which is started if it is not running.

    With `alone`, raise `AlreadyRunning` if it is running.
    """
    if config.database_url is not None:
        yield config.database_url
        return
    embedded_url = import_module("app.local.database").embedded_url
    with StatusLine() as progress, embedded_url(config.state_dir.absolute(), progress, alone=alone) as url:
        progress.settle()
        yield url


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """Show a progress bar; yields the callback that updates it with each progress value of a backup."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[size]}"))
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None, size="")
        yield lambda at: bar.update(task, total=at.total, completed=at.done, size=human_bytes(at.bytes))


def _url(embedded_hint: str) -> str:
    """Return DATABASE_URL. Raises `BadSetup` without it; `embedded_hint` says what applies to an embedded Postgres."""
    require_linux("`grouptune db`")
    url = load_settings().database_url
    if url is None:
        raise BadSetup(f"Set DATABASE_URL. {embedded_hint}")
    return url
