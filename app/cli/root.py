"""The tree of commands."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from app.cli import bench, models, teachers, trusts
from app.cli.dashboard import dashboard
from app.cli.db import commands as db
from app.cli.demo.command import demo
from app.cli.doctor.command import doctor
from app.cli.files import commands as files
from app.cli.files.generate import generate
from app.cli.files.lint import lint
from app.cli.files.pull import pull
from app.cli.jobs import commands as jobs
from app.cli.keys import commands as keys
from app.cli.ui.console import write_line
from app.cli.ui.exits import Boundary
from app.cli.up import up
from app.cli.workers import workers

app = typer.Typer(
    name="grouptune",
    cls=Boundary,
    help="Self-hosted fine-tuning: start a service, upload data, run jobs.",
    no_args_is_help=True,
    # Without a terminal help and usage errors are plain text.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    pretty_exceptions_show_locals=False,  # they would show API keys
)


def _print_version(wanted: bool) -> None:
    if wanted:
        write_line(f"grouptune {version('grouptune')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """Nothing to do before a command."""


app.command()(up)
app.command()(demo)
app.command()(dashboard)
app.command()(doctor)
app.command()(workers)
files.app.command()(lint)
files.app.command()(generate)
files.app.command()(pull)
app.add_typer(files.app, name="files")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(teachers.app, name="teachers")
app.add_typer(trusts.app, name="trusts")
app.add_typer(db.app, name="db")
app.add_typer(bench.app, name="bench")
