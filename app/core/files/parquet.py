"""Converts Parquet files to JSONL, one row a line, in constant memory. Needs pyarrow. Does not check the rows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.core.extras import install_command
from app.core.files.validation import MAX_FILE_BYTES, MAX_ROWS
from app.core.plurals import plural
from app.core.spec.json_lines import quoted

if TYPE_CHECKING:
    from pyarrow import DataType, Schema
    from pyarrow.parquet import ParquetFile

MAGIC: Final = b"PAR1"
MAX_RATIO: Final = 20
"""Limit of the ratio of a file's unpacked size to its own size."""
MIN_UNPACKED_BYTES: Final = 50_000_000
"""Every file may unpack to this size whatever its ratio: a column with a single value takes almost no space."""
MAX_COLUMNS: Final = 1_000
_BATCH_ROWS: Final = 128
_READ_BYTES: Final = 1 << 20


class UnreadableParquet(ValueError):
    """The Parquet file cannot be converted to rows. The message states the cause and a fix."""


def is_parquet(path: Path) -> bool:
    """Return whether the file starts with Parquet's magic bytes."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def to_jsonl(
    source: Path,
    target: Path,
    progress: Callable[[int, int], None],
    *,
    max_rows: int = MAX_ROWS,
    min_unpacked_bytes: int = MIN_UNPACKED_BYTES,
) -> None:
    """Write the rows of `source` into the new file `target`; calls `progress` with the rows done and the total.

    The rows may have `MAX_RATIO` times the bytes of `source`, and in any case `min_unpacked_bytes`.
    Leaves out null fields: a column has a value in every row, so a Parquet file cannot distinguish absent from null.
    Raises `UnreadableParquet`.
    """
    try:
        import pyarrow  # noqa: PLC0415 - most files are JSONL
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise UnreadableParquet(f"reading Parquet needs pyarrow: {install_command('parquet')}") from error
    try:
        with parquet.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES, memory_map=False) as file:
            size = source.stat().st_size
            max_bytes = max(MAX_RATIO * size, min_unpacked_bytes)
            _check(file, size, max_rows, max_bytes)
            _write(_rows(file), target, size, max_bytes, lambda done: progress(done, file.metadata.num_rows))
    except pyarrow.ArrowMemoryError as error:
        raise MemoryError from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableParquet(f"the Parquet file cannot be read: {_first_line(error)}; write it again") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _check(file: "ParquetFile", size: int, max_rows: int, max_bytes: int) -> None:
    metadata = file.metadata
    if metadata.num_rows > max_rows:
        raise UnreadableParquet(
            f"the file has {plural(metadata.num_rows, 'row')}; the limit is {max_rows:,}, so split it"
        )
    if metadata.num_columns > MAX_COLUMNS:
        raise UnreadableParquet(
            f"the file has {plural(metadata.num_columns, 'column')}; the limit is {MAX_COLUMNS:,}, so drop some"
        )
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if unpacked > max_bytes:
        raise _unpacks_too_large(size)
    _check_types(file.schema_arrow)


def _unpacks_too_large(size: int) -> UnreadableParquet:
    return UnreadableParquet(
        f"the file of {size:,} bytes unpacks to more than {MAX_RATIO} times its size; upload the rows as JSONL"
    )


def _check_types(schema: "Schema") -> None:
    names = set()
    for field in schema:
        if field.name in names:
            raise UnreadableParquet(f"two columns are named {quoted(field.name)}; rename one of them")
        names.add(field.name)
        if unsupported := next(_unsupported_types(field.type), None):
            raise UnreadableParquet(
                f"the column {quoted(field.name)} has the type {quoted(str(unsupported))}, which JSON does not have; "
                "cast it to text or to a number"
            )


def _unsupported_types(kind: "DataType") -> Iterator["DataType"]:
    """Yield the types within `kind` that JSON cannot represent."""
    from pyarrow import types  # noqa: PLC0415 - as above

    if types.is_dictionary(kind):
        yield from _unsupported_types(kind.value_type)
    elif types.is_map(kind):
        if not (types.is_string(kind.key_type) or types.is_large_string(kind.key_type)):
            yield kind
        yield from _unsupported_types(kind.item_type)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield from _unsupported_types(kind.value_type)
    elif types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _unsupported_types(kind.field(index).type)
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


def _write(
    rows: Iterator[dict[str, Any]], target: Path, size: int, max_bytes: int, progress: Callable[[int], None]
) -> None:
    limit = min(MAX_FILE_BYTES, max_bytes)
    written = 0
    with target.open("xb") as out:
        for count, row in enumerate(rows, start=1):
            line = json.dumps(_without_nulls(row), ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
            written += len(line)
            if written > limit:
                raise _unpacks_too_large(size)
            out.write(line)
            if count % _BATCH_ROWS == 0:
                progress(count)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
