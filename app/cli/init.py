"""`grouptune init`: a job file with example data, to start from."""

from pathlib import Path
from typing import Annotated, Final

import typer
import yaml

from app.cli.demo import data
from app.cli.ui.console import note, write_line
from app.core.errors import InvalidRequest

SEED: Final = 7
_JOB, _TRAIN, _HELD_OUT = "job.yaml", "train.jsonl", "heldout.jsonl"
_HEADER: Final = """\
# Check: grouptune jobs validate -f job.yaml      Start: grouptune jobs create -f job.yaml --follow
# Replace the rows of both files by yours; the docs describe them (docs/data.md), graders (docs/graders.md) and methods.
# Paths are relative to this file.
"""


def init(
    directory: Annotated[Path, typer.Argument(help="Directory for the files.", file_okay=False)] = Path(),
    model: Annotated[str, typer.Option(help="Base model.")] = data.BASE_MODEL,
) -> None:
    """Write job.yaml with example data to start from. Prints the path of the job."""
    paths = {name: directory / name for name in (_JOB, _TRAIN, _HELD_OUT)}
    if existing := [str(path) for path in paths.values() if path.exists()]:
        raise InvalidRequest(f"{existing[0]} exists already. Name another directory.", code="file_exists")
    directory.mkdir(parents=True, exist_ok=True)
    data.write_dataset(paths[_TRAIN], paths[_HELD_OUT], seed=SEED)
    job = data.demo_job(_TRAIN, _HELD_OUT, SEED) | {"model": model, "suffix": "first"}
    paths[_JOB].write_text(_HEADER + yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    note(f"Start it with `grouptune jobs create -f {paths[_JOB]} --follow`.")
    write_line(str(paths[_JOB]))
