"""Recognises archives and other binary files by their first bytes, and unpacks those that hold one file of text."""

import bz2
import gzip
import lzma
import zipfile
import zlib
from pathlib import PurePath
from typing import BinaryIO, Final, NamedTuple, cast

from app.core.plurals import plural

HEAD_BYTES: Final = 1 << 16


class Unconvertible(ValueError):
    """The file, or one of its rows, cannot be converted. The message says where, why, and what to do instead."""


class Binary(NamedTuple):
    """A kind of file that is not text."""

    name: str
    """With its article: "a gzip archive"."""
    fix: str | None
    """What to do instead of converting it; None if `unpacked` can read it."""


_UNPACK: Final = "unpack it and upload its contents"
_MAGIC: Final = (
    (b"\x1f\x8b", Binary("a gzip archive", None)),
    (b"BZh", Binary("a bzip2 archive", None)),
    (b"\xfd7zXZ", Binary("an xz archive", None)),
    (b"\x28\xb5\x2f\xfd", Binary("a zstd archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Binary("a 7z archive", _UNPACK)),
    (b"Rar!", Binary("a rar archive", _UNPACK)),
    (b"%PDF", Binary("a PDF document", "write its contents as rows of JSONL")),
    (b"ARROW1", Binary("an Arrow file", "write it as JSONL or Parquet, with datasets: `dataset.to_json(PATH)`")),
    (b"SQLite format 3", Binary("an SQLite database", "export its rows as JSONL or CSV")),
    (b"\xd0\xcf\x11\xe0", Binary("an old Office document (.xls, .doc)", "save its rows as CSV (UTF-8)")),
)
_OFFICE: Final = {
    "xl/": Binary("an Excel workbook", "save the sheet as CSV (UTF-8) and convert or upload that"),
    "word/": Binary("a Word document", "write its contents as rows of JSONL"),
}
_TAR_MAGIC: Final = slice(257, 262)


def binary_kind(stream: BinaryIO) -> Binary | None:
    """Return the kind of a binary file, or None; leaves the stream at its start."""
    head = stream.read(512)
    stream.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(stream)
    if head[_TAR_MAGIC] == b"ustar":
        return Binary("a tar archive", _UNPACK)
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def _zip_kind(stream: BinaryIO) -> Binary:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return Binary("a damaged zip archive", "write it again")
    finally:
        stream.seek(0)
    for prefix, kind in _OFFICE.items():
        if any(name.startswith(prefix) for name in names):
            return kind
    fix = None if len(_members(names)) == 1 else f"it holds {plural(len(_members(names)), 'file')}: {_UNPACK}"
    return Binary("a zip archive", fix)


def _members(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX/")]


def unpacked(stream: BinaryIO) -> BinaryIO:
    """Return the stream, or the one that reads the file inside the archive. Raises `Unconvertible`."""
    kind = binary_kind(stream)
    if kind is None:
        return stream
    if kind.fix is not None:
        raise Unconvertible(f"the file is {kind.name}; {kind.fix}")
    head = stream.read(4)
    stream.seek(0)
    if head.startswith(b"PK"):
        archive = zipfile.ZipFile(stream)
        (member,) = _members(archive.namelist())
        try:
            return cast(BinaryIO, archive.open(member))
        except NotImplementedError as error:  # from zipfile, for a compression that it does not know
            raise Unconvertible("the zip archive has an unusual compression; unpack it yourself") from error
        except RuntimeError as error:
            raise Unconvertible("the zip archive is encrypted; unpack it yourself") from error
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return cast(BinaryIO, bz2.BZ2File(stream) if head.startswith(b"BZh") else lzma.LZMAFile(stream))


def jsonl_name(filename: str) -> str:
    """Return the name of a file's converted rows: `quiz.csv.gz` becomes `quiz.jsonl`."""
    for suffix in (".gz", ".bz2", ".xz", ".zip"):
        filename = filename.removesuffix(suffix)
    return f"{PurePath(filename).stem or 'rows'}.jsonl"


UNPACK_ERRORS: Final = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError)
"""What reading a damaged archive raises."""
