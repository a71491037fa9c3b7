"""`grouptune files pull`: downloads rows of a data set from the Hugging Face hub."""

from typing import Annotated

import typer

from app.cli.files.row_output import Output, Upload, deliver
from app.cli.machine import require_packages
from app.cli.ui.console import StatusLine, note
from app.cli.ui.options import StateDir
from app.sources import hub_rows as hub


def pull(
    source: Annotated[str, typer.Argument(metavar="hf:ORG/NAME[:CONFIG][/SPLIT]", help="Data set on the hub.")],
    rows: Annotated[
        int, typer.Option(min=1, max=hub.MAX_ROWS, help="Maximum number of rows, from the start.")
    ] = hub.MAX_ROWS,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Column to use for a field (prompt, completion or messages). Repeatable.",
        ),
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column to leave out. Repeatable.")] = None,
    output: Output = None,
    upload: Upload = False,
    state_dir: StateDir = None,
) -> None:
    """Download rows from the Hugging Face hub. Prints the path of the file, or its id with --upload.

    Columns that no option mentions are kept.
    """
    require_packages("data", "Downloading data")
    reference = hub.HubReference.parse(source)
    columns = dict(map(_pair, column or []))
    with StatusLine() as progress:
        progress(f"Looking up {reference.id} on the hub")
        reference = hub.resolve(reference)
    note(f"hf:{reference.id}:{reference.config}/{reference.split}")
    name = f"{reference.id.rpartition('/')[2]}-{reference.split}"
    deliver(hub.rows(reference, rows, columns, drop or []), name, output, upload, state_dir)


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise typer.BadParameter(f"{text!r} is not a pair. Write FIELD=COLUMN.", param_hint="--column")
    return field, column
