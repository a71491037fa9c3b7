"""A job's metrics as CSV, some rows at a time."""

import csv
import io
from collections.abc import Iterator, Sequence

from app.core.db import Database
from app.core.jobs import metric_series


def csv_lines(database: Database, job_id: str, names: Sequence[str], first: int, last: int) -> Iterator[str]:
    """The header `step,NAMES...` and a line for each step; an empty cell where a step has no such number."""
    yield _line(["step", *names])
    while True:  # a transaction for each batch: who reads slowly holds no connection
        with database.reading() as session:
            batch = metric_series.steps_from(session, job_id, first, last)
        if not batch:
            return
        yield "".join(_line([step, *(values.get(name) for name in names)]) for step, values in batch)
        first = batch[-1][0] + 1


def _line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
