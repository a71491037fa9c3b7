"""Delivers the rows of `files generate`, `pull` and `convert`: to a new local file, or uploaded to the server."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.files.upload import send
from app.cli.ui.console import StatusLine, write_line
from app.client import Json
from app.core.errors import InvalidRequest
from app.core.plurals import plural

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PATH", help="New file. Default: NAME.jsonl in this directory.", dir_okay=False
    ),
]
Upload = Annotated[bool, typer.Option("--upload", help="Upload the rows instead, and print the file id.")]


def deliver(rows: Iterable[Json], name: str, output: Path | None, upload: bool, state_dir: Path | None) -> None:
    """Write the rows to a new file, or upload them; prints the path or the file id. Leaves no file on failure."""
    if not upload:
        path = output or Path(f"{name}.jsonl")
        write_rows(path, rows)
        write_line(str(path))
        return
    with connect(state_dir) as client, place(output, name) as path:
        client.get("/files", limit=1)  # check the connection and the key before spending time on the rows
        write_rows(path, rows)
        write_line(send(client, path)["id"])


@contextmanager
def place(output: Path | None, name: str) -> Iterator[Path]:
    """Yield the path for the rows of an upload: `output`, or a temporary file."""
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="grouptune-") as directory:
        yield Path(directory) / f"{name}.jsonl"


def write_rows(path: Path, rows: Iterable[Json]) -> None:
    """Write the rows to a new file; leaves none on failure. Raises `InvalidRequest` if it exists, or without rows."""
    if path.exists():
        raise InvalidRequest(f"{path} exists already. Name another file.")
    unfinished = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with unfinished.open("w", encoding="utf-8") as file, StatusLine() as progress:
            for count, row in enumerate(rows, start=1):
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                if count % 1000 == 0:
                    progress(plural(count, "row"))
            progress(plural(count, "row"))
        if count == 0:
            raise InvalidRequest("The data set has no rows.")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
