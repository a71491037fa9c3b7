"""How rows look as a model reads them: coloured by source on a terminal, labelled lines without one."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from app.cli.ui.console import note, out, write_line
from app.client import Json

_COLOURS: Final = {"prompt": "dim", "expert": "green", "teacher": "cyan"}
_BAR_COLUMNS: Final = 32
_VISIBLE: Final = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | dict.fromkeys(
    range(127, 160), "\ufffd"
)
"""A row must not steer the terminal: control characters become pictures of themselves."""


def show(answer: Json) -> None:
    """Prints the rows of a preview and, with the first page, how long rows are."""
    for row in answer["data"]:
        if out.is_terminal:
            out.print(_panel(row), soft_wrap=False)
        else:
            for line in _lines(row):
                write_line(line)
    if not answer["data"]:
        note("No rows there.")
    if (lengths := answer["lengths"]) is not None:
        for line in _lengths(lengths, answer):
            note(line)
    if answer["has_more"]:
        note(f"More: --after {answer['data'][-1]['line']}")


def _title(span: Json, number: int) -> str:
    name = span["source"] + (f" {number}" if span["source"] == "teacher" else "")
    author = f" ({span['model']})" if span["model"] else ""
    use = "read only" if span["source"] == "prompt" else "trained on"
    return f"{name}{author}: {span['tokens']:,} tokens, {use if span['fits'] else 'TOO LONG, dropped'}"


def _titles(row: Json) -> Iterator[tuple[str, Json]]:
    """Each span with its heading; teachers are counted."""
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
        # Neighbouring tokens are told apart by an underline, never by colour alone.
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
        f"Tokens a row with {answer['model']} ({share} {lengths['rows']:,} rows): "
        f"median {whole['median']:,}, 95% up to {whole['p95']:,}, longest {whole['max']:,}"
    )
    yield from _bars(whole["bins"])
    limit = f"{answer['max_length']:,}"
    if lengths["too_long"]:
        yield f"{lengths['too_long']:,} of {lengths['measured_rows']:,} rows are over max_length {limit}."
    for one in lengths["longest_too_long"]:
        yield f"line {one['line']}: {one['tokens']:,} tokens are over max_length {limit}"


def _bars(bins: list[Json]) -> Iterator[str]:
    """A bar for each bin; a stretch of empty ones is one line."""
    most = max(one["count"] for one in bins)
    for is_empty, run in groupby(bins, key=lambda one: one["count"] == 0):
        if is_empty:
            yield f"{'...':>7}"
            continue
        for one in run:
            bar = "█" * -(-_BAR_COLUMNS * one["count"] // most)
            yield f"{one['start']:>7,} {bar:<{_BAR_COLUMNS}} {one['count']:,}"
