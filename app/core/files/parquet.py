"""Parquet files as JSONL, one row a line, in constant memory. Needs pyarrow; judges no row: `validation` does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.core.files.validation import MAX_FILE_BYTES, MAX_ROWS
from app.core.spec.rows import quoted

if TYPE_CHECKING:
    from pyarrow import DataType, Schema
    from pyarrow.parquet import ParquetFile

MAGIC: Final = b"PAR1"
MAX_RATIO: Final = 20
"""Of what a file unpacks to and its own size."""
MIN_UNPACKED_BYTES: Final = 50_000_000
"""Small files may unpack to so much whatever the ratio: a column with one value takes nearly nothing."""
MAX_COLUMNS: Final = 1_000
_BATCH_ROWS: Final = 128
_READ_BYTES: Final = 1 << 20


class UnreadableParquet(ValueError):
    """A Parquet file that cannot become rows; the message says why and how to mend it."""


def is_parquet(path: Path) -> bool:
    """Whether the file begins as all Parquet files do."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def to_jsonl(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Writes the rows of `source` into the new file `target`; `progress` hears of rows done and in all.

    Fields that are null are left out, since a column has a value in every row: absent and null cannot be told apart.
    Raises `UnreadableParquet`.
    """
    try:
        import pyarrow  # noqa: PLC0415 - most files are JSONL
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise UnreadableParquet(
            "Parquet files need pyarrow on the worker (pip install 'grouptune[worker]'); or upload the rows as JSONL"
        ) from error
    try:
        with parquet.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES, memory_map=False) as file:
            size = source.stat().st_size
            _check(file, size)
            _write(_rows(file), target, size, lambda done: progress(done, file.metadata.num_rows))
    except pyarrow.ArrowMemoryError as error:
        raise MemoryError from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableParquet(f"the Parquet file cannot be read: {_first_line(error)}; write it again") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _check(file: "ParquetFile", size: int) -> None:
    found = file.metadata
    if found.num_rows > MAX_ROWS:
        raise UnreadableParquet(f"the file has {found.num_rows:,} rows; the limit is {MAX_ROWS:,}, so split it")
    if found.num_columns > MAX_COLUMNS:
        raise UnreadableParquet(f"the file has {found.num_columns:,} columns; the limit is {MAX_COLUMNS:,}, drop some")
    unpacked = sum(found.row_group(index).total_byte_size for index in range(found.num_row_groups))
    if unpacked > max(MAX_RATIO * size, MIN_UNPACKED_BYTES):
        raise _too_packed(size)
    _check_types(file.schema_arrow)


def _too_packed(size: int) -> UnreadableParquet:
    return UnreadableParquet(
        f"the file of {size:,} bytes unpacks to more than {MAX_RATIO} times as much; upload the rows as JSONL"
    )


def _check_types(schema: "Schema") -> None:
    names = set()
    for field in schema:
        if field.name in names:
            raise UnreadableParquet(f"the column {quoted(field.name)} is there twice; rename one of them")
        names.add(field.name)
        if wrong := next(_unwritable(field.type), None):
            raise UnreadableParquet(
                f"the column {quoted(field.name)} has the type {quoted(str(wrong))}, which JSON lacks; cast it to text "
                "or a number"
            )


def _unwritable(kind: "DataType") -> Iterator["DataType"]:
    """The types within `kind` that JSON has no word for."""
    from pyarrow import types  # noqa: PLC0415 - as above

    if types.is_dictionary(kind):
        yield from _unwritable(kind.value_type)
    elif types.is_map(kind):
        if not (types.is_string(kind.key_type) or types.is_large_string(kind.key_type)):
            yield kind
        yield from _unwritable(kind.item_type)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield from _unwritable(kind.value_type)
    elif types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _unwritable(kind.field(index).type)
    elif not any(
        test(kind)
        for test in (
            *(types.is_string, types.is_large_string, types.is_string_view, types.is_boolean, types.is_null),
            *(types.is_integer, types.is_floating),
        )
    ):
        yield kind


def _rows(file: "ParquetFile") -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _write(rows: Iterator[dict[str, Any]], target: Path, packed: int, progress: Callable[[int], None]) -> None:
    limit = min(MAX_FILE_BYTES, max(MAX_RATIO * packed, MIN_UNPACKED_BYTES))
    written = 0
    with target.open("xb") as out:
        for count, row in enumerate(rows, start=1):
            line = json.dumps(_without_nulls(row), ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
            written += len(line)
            if written > limit:
                raise _too_packed(packed)
            out.write(line)
            if count % _BATCH_ROWS == 0:
                progress(count)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value
