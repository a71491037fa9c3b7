"""Recognises the text encoding of a file, in constant memory."""

import codecs
import re
from math import inf
from typing import BinaryIO, Final, NamedTuple

_CHUNK_BYTES: Final = 1 << 20
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # before UTF-16: it starts with UTF-16's mark
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
)
_NULS: Final = (
    (re.compile(rb"\A[^\0]\0\0\0[^\0]\0\0\0"), "utf-32-le", "UTF-32"),
    (re.compile(rb"\A\0\0\0[^\0]\0\0\0[^\0]"), "utf-32-be", "UTF-32"),
    (re.compile(rb"\A[^\0]\0[^\0]\0"), "utf-16-le", "UTF-16"),
    (re.compile(rb"\A\0[^\0]\0[^\0]"), "utf-16-be", "UTF-16"),
)
_HIGH: Final = re.compile(rb"[\x80-\xff]+")


class Encoding(NamedTuple):
    """The encoding of a file."""

    codec: str | None
    """For `codecs`; None if it is unknown."""
    name: str
    """For people."""

    @property
    def is_utf8(self) -> bool:
        """Whether the trainer can read it."""
        return self.codec in ("utf-8", "utf-8-sig")


UTF8: Final = Encoding("utf-8", "UTF-8")
UNKNOWN: Final = Encoding(None, "an unknown encoding")
MIXED: Final = Encoding(None, "UTF-8 in some lines and another encoding in others")
"""Single lines are damaged."""


def wide_encoding(head: bytes) -> Encoding | None:
    """Return UTF-16 or UTF-32 by the first bytes of a file; None for an encoding with single bytes for ASCII."""
    for mark, codec, name in _BOMS:
        if head.startswith(mark):
            return None if codec == "utf-8-sig" else Encoding(codec, name)
    return next((Encoding(codec, name) for pattern, codec, name in _NULS if pattern.match(head)), None)


def encoding_of(stream: BinaryIO, limit: float = inf) -> Encoding:
    """Read the seekable stream, at most about `limit` bytes of it, and return its encoding.

    A file without a single line of UTF-8 counts as Windows-1252 if its bytes above 127 are mostly single, as accents
    and quotation marks are in Western languages. Texts in other scripts have runs of them; this function does not guess
    their encoding.
    """
    head = stream.read(_CHUNK_BYTES)
    if (wide := wide_encoding(head)) is not None:
        return wide
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk, read = head, 0
    try:
        while chunk and read < limit:
            decoder.decode(chunk)
            read += len(chunk)
            chunk = stream.read(_CHUNK_BYTES)
        decoder.decode(b"", final=not chunk)
    except UnicodeDecodeError:
        stream.seek(0)
        return _single_byte_encoding(stream, limit)
    return Encoding("utf-8-sig", "UTF-8") if head.startswith(codecs.BOM_UTF8) else UTF8


def _single_byte_encoding(stream: BinaryIO, limit: float) -> Encoding:
    ascii_lines = other_lines = single = total = 0
    is_western = True
    while stream.tell() < limit and (line := stream.readline(_CHUNK_BYTES)):
        if line.isascii():
            ascii_lines += 1
            continue
        if decodes(line, "utf-8"):
            return MIXED
        other_lines += 1
        is_western = is_western and decodes(line, "cp1252")
        for run in _HIGH.findall(line):
            single += len(run) == 1
            total += len(run)
    if is_western and 2 * single >= total:
        return Encoding("cp1252", "Windows-1252")
    return UNKNOWN if other_lines > ascii_lines else MIXED


def decodes(line: bytes, codec: str) -> bool:
    """Return whether the bytes are text in this encoding."""
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return True
