"""`grouptune files generate`: rows that are made here, with a grader that checks answers to them."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from app.cli.connection import StateDir, connect
from app.cli.console import Steps, note, write_line, write_table
from app.cli.files import send
from app.client import Json
from app.core.errors import InvalidRequest
from app.sources import reasoning_gym_rows as gym

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="New file; NAME.jsonl here if absent.", dir_okay=False),
]
Upload = Annotated[bool, typer.Option("--upload", help="Upload the rows; prints the file's id.")]


def generate(
    source: Annotated[Literal["reasoning-gym"] | None, typer.Argument(help="Lists the data sets if absent.")] = None,
    name: Annotated[str | None, typer.Argument(help="A data set of the source.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=gym.MAX_ROWS, help="With distinct questions.")] = 500,
    seed: Annotated[int, typer.Option(min=0, max=gym.MAX_SEED, help="Other seeds give other rows.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="How hard: a field of the data set; may be given often."),
    ] = None,
    output: Output = None,
    upload: Upload = False,
    state_dir: StateDir = None,
) -> None:
    """Generate a data set; prints the file's path, or with --upload its id. Without a name it lists what there is."""
    if source is None or name is None:
        write_table(("data set", "kind", "what it asks"), gym.data_sets(), empty="")
        return
    made = gym.rows(name, rows, seed, _settings(setting or []))
    deliver(made, name, rows, output, upload, state_dir)
    note(f"Its grader: {json.dumps(gym.GRADER)}")


def deliver(
    rows: Iterable[Json], name: str, total: int, output: Path | None, upload: bool, state_dir: Path | None
) -> None:
    """Writes the rows to a new file, or to the server; prints where they are. Leaves nothing when that fails."""
    if not upload:
        path = output or Path(f"{name}.jsonl")
        _write(path, rows, total)
        write_line(str(path))
        return
    with connect(state_dir) as client, _place(output, name) as path:  # the server is asked for before the work is done
        client.get("/files", limit=1)
        _write(path, rows, total)
        write_line(send(client, path)["id"])


@contextmanager
def _place(output: Path | None, name: str) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="grouptune-") as directory:
        yield Path(directory) / f"{name}.jsonl"


def _write(path: Path, rows: Iterable[Json], total: int) -> None:
    if path.exists():
        raise InvalidRequest(f"{path} exists already: name another file with --output.")
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as file, Steps() as tell:
            for count, row in enumerate(rows, start=1):
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                if count % 100 == 0 or count == total:
                    tell(f"{count:,} of {total:,} rows")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
