"""`grouptune files convert`: converts a file of another format to JSONL rows on this machine."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.files.row_output import Upload, place, write_rows
from app.cli.files.upload import send
from app.cli.machine import require_packages
from app.cli.ui.console import note, warn, write_findings, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, StateDir
from app.client import Json
from app.core.errors import InvalidRequest
from app.core.files.archives import Unconvertible, jsonl_name


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            exists=True,
            dir_okay=False,
            readable=True,
            help="CSV, TSV, JSON, Python literals, Parquet, or rows of another tool; also compressed.",
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", dir_okay=False, help="New file. Default: NAME.jsonl in this directory."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Column to use for a field, such as prompt, completion or system; others stay. Repeatable.",
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encoding of the text, such as gbk. Default: recognized.")
    ] = None,
    upload: Upload = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Convert a file to JSONL rows. Prints the path of the new file, or its id with --upload.

    Without --map, columns with the usual names are found. Exit with code 1 if a row cannot be trained on.
    """
    if encoding is not None and not _is_codec(encoding):
        raise typer.BadParameter(f"{encoding!r} is not an encoding of Python.", param_hint="--encoding")
    rows = _rows(source, dict(map(_pair, mapping or [])), encoding)
    name = jsonl_name(source.name).removesuffix(".jsonl")
    if upload:
        with connect(state_dir) as client, place(target, name) as path:
            client.get("/files", limit=1)  # check the connection and the key before spending time on the rows
            write_rows(path, rows)
            file = send(client, path)
        write_json(file) if as_json else write_line(file["id"])
        return
    path = target or Path(f"{name}.converted.jsonl" if Path(f"{name}.jsonl").exists() else f"{name}.jsonl")
    write_rows(path, rows)
    _report(path, as_json)


def _rows(source: Path, columns: dict[str, str], encoding: str | None) -> Iterator[Json]:
    from app.core.files import convert as conversion  # noqa: PLC0415 - imports pydantic, which other commands do not need
    from app.core.files.parquet import is_parquet  # noqa: PLC0415 - as above

    if is_parquet(source):
        require_packages("parquet", "Reading Parquet")
    try:
        yield from conversion.rows(source, columns, encoding)
    except Unconvertible as error:
        raise InvalidRequest(f"{source}: {error}.", code="invalid_file") from error


def _report(path: Path, as_json: bool) -> None:
    from app.core.files.validation import validate_file  # noqa: PLC0415 - as above

    report = validate_file(path)
    if as_json:
        found = report.model_dump(mode="json", exclude={"places", "longest"})
        write_json({"path": str(path), "summary": report.summary(), "report": found})
    else:
        write_line(str(path))
        (note if report.has_answers or not report.valid else warn)(report.summary())
        errors, warnings = ([issue.model_dump() for issue in issues] for issues in (report.errors, report.warnings))
        write_findings(errors, warnings, error_count=report.error_count, warning_count=report.warning_count)
    if not report.valid:
        raise typer.Exit(ExitCode.error)


def _is_codec(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise typer.BadParameter(f"{text!r} is not a pair. Write FIELD=COLUMN.", param_hint="--map")
    return field, column
