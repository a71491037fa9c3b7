"""`grouptune files generate`: generates rows on this machine, with a grader for their answers."""

import json
from typing import Annotated, Any, Literal

import typer
import yaml

from app.cli.files.row_output import Output, Upload, deliver
from app.cli.machine import require_packages
from app.cli.ui.console import note, write_table
from app.cli.ui.options import StateDir
from app.sources import reasoning_gym_rows as gym


def generate(
    source: Annotated[
        Literal["reasoning-gym"] | None, typer.Argument(help="Source of data sets. Omit it to list the data sets.")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Name of a data set.")] = None,
    rows: Annotated[
        int, typer.Option(min=1, max=gym.MAX_ROWS, help="Number of rows, each with a different question.")
    ] = 500,
    seed: Annotated[
        int, typer.Option(min=0, max=gym.MAX_SEED, help="Random seed; each seed gives different rows.")
    ] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Set a field of the data set, such as its difficulty. Repeatable."
        ),
    ] = None,
    output: Output = None,
    upload: Upload = False,
    state_dir: StateDir = None,
) -> None:
    """Generate a data set. Prints its path, or its file id with --upload. Without a name, lists the data sets."""
    require_packages("data", "Generating data")
    if source is None or name is None:
        write_table(("data set", "category", "description"), gym.data_sets(), empty="")
        return
    deliver(gym.rows(name, rows, seed, _settings(setting or [])), name, output, upload, state_dir)
    note(f"Grader for these rows: {json.dumps(gym.GRADER)}")


def _settings(pairs: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not a setting. Write FIELD=VALUE.", param_hint="--set")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            settings[name] = value
    return settings
