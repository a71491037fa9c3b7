"""Puts rows that a command made where they are wanted: into a new file, or onto the server."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.files.commands import send
from app.cli.ui.console import Steps, write_line
from app.client import Json
from app.core.errors import InvalidRequest

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="New file; NAME.jsonl here if absent.", dir_okay=False),
]
Upload = Annotated[bool, typer.Option("--upload", help="Upload the rows; prints the file's id.")]


def deliver(rows: Iterable[Json], name: str, output: Path | None, upload: bool, state_dir: Path | None) -> None:
    """Writes the rows to a new file, or to the server; prints where they are. Leaves nothing when that fails."""
    if not upload:
        path = output or Path(f"{name}.jsonl")
        _write(path, rows)
        write_line(str(path))
        return
    with connect(state_dir) as client, _place(output, name) as path:
        client.get("/files", limit=1)  # before the work is done, whether it can be delivered
        _write(path, rows)
        write_line(send(client, path)["id"])


@contextmanager
def _place(output: Path | None, name: str) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="grouptune-") as directory:
        yield Path(directory) / f"{name}.jsonl"


def _write(path: Path, rows: Iterable[Json]) -> None:
    if path.exists():
        raise InvalidRequest(f"{path} exists already: name another file with --output.")
    unfinished = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with unfinished.open("w", encoding="utf-8") as file, Steps() as tell:
            for count, row in enumerate(rows, start=1):
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                if count % 1000 == 0:
                    tell(f"{count:,} rows")
            tell(f"{count:,} rows")
        if count == 0:
            raise InvalidRequest("There are no rows.")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
