"""`grouptune bench`: the engine measured on the user's own machine."""

import subprocess
import sys
from importlib.util import find_spec

import typer

from app.core.errors import BadSetup

app = typer.Typer(help="Measure the engine on this machine.", no_args_is_help=True)


@app.command(
    "train",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train(context: typer.Context) -> None:
    """Time training steps and rollouts beside TRL's; takes a while. Options: grouptune bench train --help."""
    if find_spec("torch") is None:
        raise BadSetup("Measuring needs the training libraries: pip install 'grouptune[worker,bench]'")
    # A process of its own: measuring needs torch, which the command line does not load.
    done = subprocess.run([sys.executable, "-m", "bench.train", *context.args], check=False)
    raise typer.Exit(done.returncode)
