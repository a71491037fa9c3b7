"""The root command and its subcommands."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from app.cli import bench, profiles, teachers, trusts, webhooks
from app.cli.chat import chat
from app.cli.dashboard import dashboard
from app.cli.db import commands as db
from app.cli.demo.command import demo
from app.cli.doctor.command import doctor
from app.cli.evals import commands as evals
from app.cli.files import commands as files
from app.cli.init import init
from app.cli.jobs import commands as jobs
from app.cli.keys import commands as keys
from app.cli.models import commands as models
from app.cli.ui.console import write_line
from app.cli.ui.exits import ErrorBoundary
from app.cli.up import up
from app.cli.workers import list_workers

app = typer.Typer(
    name="grouptune",
    cls=ErrorBoundary,
    help="Self-hosted fine-tuning: start the service, upload data, run jobs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Help and usage errors are plain text without a terminal.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    pretty_exceptions_show_locals=False,  # local variables can contain API keys
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        write_line(f"grouptune {version('grouptune')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """Declare the options of the root command."""


app.command()(up)
app.command()(demo)
app.command()(init)
app.command()(chat)
app.command()(dashboard)
app.command()(doctor)
app.command("workers")(list_workers)
app.command()(profiles.login)
app.command()(profiles.logout)
app.add_typer(files.app, name="files")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(evals.app, name="evals")
app.add_typer(keys.app, name="keys")
app.add_typer(teachers.app, name="teachers")
app.add_typer(trusts.app, name="trusts")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(profiles.app, name="profiles")
app.add_typer(db.app, name="db")
app.add_typer(bench.app, name="bench")
