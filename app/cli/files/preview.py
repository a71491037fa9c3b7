"""`grouptune files preview`: rows as a model reads them, coloured on a terminal, as labelled lines elsewhere."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from app.cli.connection import connect
from app.cli.ui.console import note, out, write_json, write_line
from app.cli.ui.options import AsJson, StateDir
from app.client import Json
from app.core.plurals import plural

_COLOURS: Final = {
    "prompt": "dim",
    "expert": "green",
    "teacher": "cyan",
    "preferred": "green",
    "non_preferred": "magenta",
}
_BAR_COLUMNS: Final = 32
_VISIBLE: Final = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | dict.fromkeys(
    range(127, 160), "\ufffd"
)
"""Control characters to visible symbols, so that a row cannot send escape sequences to the terminal."""


def preview(
    file_id: Annotated[str, typer.Argument(metavar="FILE", help="File id: file-...")],
    model: Annotated[
        str | None, typer.Option(help="Base model whose tokenizer to use. Default: the first available one.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of rows.")] = 5,
    after: Annotated[int, typer.Option(min=0, help="Start after this line.")] = 0,
    max_length: Annotated[
        int | None, typer.Option(min=16, help="The job's max_length in tokens; rows that exceed it are marked.")
    ] = None,
    turns: Annotated[
        str | None,
        typer.Option(
            help="`all` trained answers of a conversation, as supervised jobs train them, or the `last` only."
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show rows as the trainer sees them. Prints tokens, marks which are trained, and summarizes row lengths."""
    params: dict[str, str | int] = {"limit": limit, "after": after}
    if model is not None:
        params["model"] = model
    if max_length is not None:
        params["max_length"] = max_length
    if turns is not None:
        params["turns"] = turns
    with connect(state_dir) as client:
        answer = client.get(f"/files/{file_id}/preview", **params)
    if as_json:
        write_json(answer)
    else:
        show(answer)


def show(answer: Json) -> None:
    """Print the rows of a preview; the first page also has the distribution of row lengths."""
    for row in answer["data"]:
        if out.is_terminal:
            out.print(_panel(row), soft_wrap=False)
        else:
            for line in _lines(row):
                write_line(line)
    if not answer["data"]:
        note("No rows after this line.")
    if (lengths := answer["lengths"]) is not None:
        for line in _lengths(lengths, answer):
            note(line)
    if answer["has_more"]:
        note(f"Show more with --after {answer['data'][-1]['line']}")


def _title(span: Json, number: int) -> str:
    name = span["source"] + (f" {number}" if span["source"] == "teacher" else "")
    author = f" ({span['model']})" if span["model"] else ""
    use = "context only" if span["source"] == "prompt" else "trained on"
    return f"{name}{author}: {plural(span['tokens'], 'token')}, {use if span['fits'] else 'TOO LONG, dropped'}"


def _titles(row: Json) -> Iterator[tuple[str, Json]]:
    """Yield each span with its heading; teacher answers are numbered."""
    teachers = 0
    for span in row["spans"]:
        teachers += span["source"] == "teacher"
        yield _title(span, teachers), span


def _panel(row: Json) -> RenderableType:
    parts: list[RenderableType] = []
    for title, span in _titles(row):
        colour = _COLOURS[span["source"]]
        if not span["fits"]:
            colour += " strike"
        parts.append(Text(title, style="bold" if span["fits"] else "bold red"))
        # Every second token is underlined, so that token boundaries are visible without colours.
        body = Text()
        for index, text in enumerate(span["texts"]):
            body.append(text.translate(_VISIBLE), style=f"{colour} underline" if index % 2 else colour)
        parts.append(body)
    if row["error"]:
        parts.append(Text(row["error"], style="red"))
    return Panel(Group(*parts), title=f"line {row['line']}", title_align="left", border_style="dim")


def _lines(row: Json) -> Iterator[str]:
    if row["error"]:
        yield f"line {row['line']}: {row['error']}"
    for title, span in _titles(row):
        yield f"line {row['line']} {title}: {json.dumps(''.join(span['texts']), ensure_ascii=False)}".translate(
            _VISIBLE
        )


def _lengths(lengths: Json, answer: Json) -> Iterator[str]:
    whole = lengths["row"]
    if whole is None:
        return
    share = "all" if lengths["measured_rows"] == lengths["rows"] else f"{lengths['measured_rows']:,} of"
    yield (
        f"Tokens per row with {answer['model']} ({share} {plural(lengths['rows'], 'row')}): "
        f"median {whole['median']:,}, 95th percentile {whole['p95']:,}, longest {whole['max']:,}"
    )
    yield from _bars(whole["bins"])
    limit = f"{answer['max_length']:,}"
    if lengths["too_long"]:
        yield f"{lengths['too_long']:,} of {plural(lengths['measured_rows'], 'row')} exceed max_length {limit}."
    for row in lengths["longest_too_long"]:
        yield f"line {row['line']}: {row['tokens']:,} tokens exceed max_length {limit}"


def _bars(bins: list[Json]) -> Iterator[str]:
    """Draw a histogram: one line per bin, and one line per run of empty bins."""
    most = max(entry["count"] for entry in bins)
    for is_empty, run in groupby(bins, key=lambda entry: entry["count"] == 0):
        if is_empty:
            yield f"{'...':>7}"
            continue
        for entry in run:
            bar = "█" * -(-_BAR_COLUMNS * entry["count"] // most)  # rounded up: a bin with rows has a bar
            yield f"{entry['start']:>7,} {bar:<{_BAR_COLUMNS}} {entry['count']:,}"
