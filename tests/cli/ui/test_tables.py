"""Tables in a terminal: whole headers, every column, statuses in colour."""

import io
import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from app.cli.ui.tables import GAP, blocks, print_table

METRICS = (
    "step",
    "loss",
    "reward",
    "expert/reward",
    "teacher/reward",
    "self/reward",
    "eval/accuracy",
    "rewards/margins",
)


def printed(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80, **options: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, highlight=False, **options)  # type: ignore[arg-type]
    print_table(console, columns, rows)
    return stream.getvalue()


def plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", printed(columns, rows))


def test_wide_table_continues_below_with_whole_headers() -> None:
    rows = [[str(step), *(f"{step}.{index}25" for index in range(1, len(METRICS)))] for step in (1, 2)]
    text = plain(METRICS, rows)
    assert max(map(len, text.splitlines())) <= 80
    words = text.split()
    for column in METRICS[1:]:
        assert words.count(column) == 1
    assert {cell for row in rows for cell in row} <= set(words)
    assert words.count("step") == 2, "the first column is repeated"


def test_long_texts_are_shortened_before_columns_move() -> None:
    columns = ("id", "name", "status", "model")
    text = plain(columns, [["a" * 8, "n" * 60, "succeeded", "m" * 12]])
    [_, line] = text.splitlines()
    assert "aaaaaaaa" in line
    assert "succeeded" in line
    assert "m" * 12 in line
    assert "n…" in line


def test_statuses_have_colours() -> None:
    text = printed(("id", "status"), [["succeeded", "succeeded"], ["b", "failed"]], color_system="standard")
    assert text.count("\x1b[32m") == 1, "only in the column of the status"
    assert "\x1b[31mfailed" in text


@given(
    st.lists(st.tuples(st.text("ab/", min_size=1, max_size=18), st.integers(0, 90)), min_size=1, max_size=9),
    st.integers(40, 200),
)
def test_blocks_hold_every_column_once(columns: list[tuple[str, int]], available: int) -> None:
    headers = [header for header, _ in columns]
    natural = [max(len(header), extra) for header, extra in columns]
    divided = blocks(headers, natural, available)
    assert [index for block in divided for index in block if index] == list(range(1, len(columns)))
    for block in divided:
        assert next(iter(block)) == 0
        assert all(len(headers[index]) <= width <= natural[index] for index, width in block.items())
        if len(block) > 2:
            assert sum(block.values()) + GAP * (len(block) - 1) <= available
