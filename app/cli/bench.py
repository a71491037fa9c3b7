"""`grouptune bench`: the engine measured on the user's own machine."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any, Final, NoReturn

import typer

from app.core.errors import BadSetup

app = typer.Typer(help="Measure the engine on this machine.", no_args_is_help=True)


_PASSED_ON: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("train", context_settings=_PASSED_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Time training steps and rollouts beside TRL's; takes a while. Options: grouptune bench train --help."""
    if find_spec("torch") is None:
        raise BadSetup("Measuring needs the training libraries: pip install 'grouptune[worker,bench]'")
    _run("train", context)


@app.command("validation", context_settings=_PASSED_ON, add_help_option=False)
def validation(context: typer.Context) -> None:
    """Time the validation of data files beside usual scripts. Options: grouptune bench validation --help."""
    _run("validation", context)


def _run(module: str, context: typer.Context) -> NoReturn:
    # A process of its own: measuring needs what the command line does not load, such as torch.
    done = subprocess.run([sys.executable, "-m", f"bench.{module}", *context.args], check=False)
    raise typer.Exit(done.returncode)
