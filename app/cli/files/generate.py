"""`grouptune files generate`: rows that are made here, with a grader that checks answers to them."""

import json
from typing import Annotated, Any, Literal

import typer
import yaml

from app.cli.connection import StateDir
from app.cli.files.row_output import Output, Upload, deliver
from app.cli.ui.console import note, write_table
from app.sources import reasoning_gym_rows as gym


def generate(
    source: Annotated[Literal["reasoning-gym"] | None, typer.Argument(help="Lists the data sets if absent.")] = None,
    name: Annotated[str | None, typer.Argument(help="A data set of the source.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=gym.MAX_ROWS, help="With distinct questions.")] = 500,
    seed: Annotated[int, typer.Option(min=0, max=gym.MAX_SEED, help="Other seeds give other rows.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="How hard: a field of the data set; repeatable."),
    ] = None,
    output: Output = None,
    upload: Upload = False,
    state_dir: StateDir = None,
) -> None:
    """Generate a data set; prints the file's path, or with --upload its id. Without a name it lists what there is."""
    if source is None or name is None:
        write_table(("data set", "kind", "what it asks"), gym.data_sets(), empty="")
        return
    deliver(gym.rows(name, rows, seed, _settings(setting or [])), name, output, upload, state_dir)
    note(f"Its grader: {json.dumps(gym.GRADER)}")


def _settings(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{one!r} is no setting; write FIELD=VALUE.", param_hint="--set")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[name] = value
    return found
