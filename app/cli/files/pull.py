"""`grouptune files pull`: rows of a data set on a hub."""

from typing import Annotated

import typer

from app.cli.connection import StateDir
from app.cli.files.row_output import Output, Upload, deliver
from app.cli.ui.console import Steps, note
from app.sources import hub_rows as hub


def pull(
    source: Annotated[str, typer.Argument(metavar="hf:ORG/NAME[:CONFIG][/SPLIT]", help="A data set of the hub.")],
    rows: Annotated[int, typer.Option(min=1, max=hub.MAX_ROWS, help="At most so many, the first ones.")] = hub.MAX_ROWS,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Take a field (prompt, completion, messages) from a column; repeatable.",
        ),
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Leave a column out; repeatable.")] = None,
    output: Output = None,
    upload: Upload = False,
    state_dir: StateDir = None,
) -> None:
    """Fetch rows of a data set as a training file; prints its path, or with --upload its id. Other columns stay."""
    asked = hub.Reference.parse(source)
    columns = dict(map(_pair, column or []))
    with Steps() as tell:
        tell(f"Asking the hub for {asked.id}")
        found = hub.find(asked)
    note(f"hf:{found.id}:{found.config}/{found.split}")
    name = f"{found.id.rpartition('/')[2]}-{found.split}"
    deliver(hub.rows(found, rows, columns, drop or []), name, output, upload, state_dir)


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise typer.BadParameter(f"{text!r} is no pair; write FIELD=COLUMN.", param_hint="--column")
    return field, column
