"""`grouptune bench`: measures the training engine and the file validation on this machine."""

import subprocess
import sys
from typing import Any, Final, NoReturn

import typer

from app.cli.machine import require_linux, require_packages

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


_PASS_ARGUMENTS_ON: Final[dict[str, Any]] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


@app.command("train", context_settings=_PASS_ARGUMENTS_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Compare training steps and rollouts with TRL; takes minutes. Options: grouptune bench train --help."""
    require_linux("The benchmark")
    require_packages("worker", "The benchmark")
    _run("train", context)


@app.command("validation", context_settings=_PASS_ARGUMENTS_ON, add_help_option=False)
def validation(context: typer.Context) -> None:
    """Compare file validation with common scripts. Options: grouptune bench validation --help."""
    require_packages("chat", "The benchmark")
    _run("validation", context)


def _run(module: str, context: typer.Context) -> NoReturn:
    # A separate process, because the command line itself must not import torch.
    done = subprocess.run([sys.executable, "-m", f"bench.{module}", *context.args], check=False)
    raise typer.Exit(done.returncode)
