"""Token lengths of a file's rows with a model's tokenizer, from the rows that the validation sampled."""

from collections.abc import Iterable
from typing import BinaryIO

from app.core.chat import preview
from app.core.chat.preview import RowLength
from app.core.chat.tokenizer import ChatTokenizer
from app.core.files import reading
from app.core.files.reading import Line
from app.core.files.validation_report import FileReport


def sampled(stream: BinaryIO, report: FileReport, chat: ChatTokenizer) -> list[RowLength]:
    """Measure rows from all over the file, or all rows of a small file."""
    return _measured(reading.sampled(stream, report), chat)


def too_long(stream: BinaryIO, report: FileReport, chat: ChatTokenizer, max_length: int) -> list[RowLength]:
    """Return the rows over `max_length` tokens among the longest rows by characters; longest first."""
    over = (row for row in _measured(reading.longest(stream, report), chat) if row.total > max_length)
    return sorted(over, key=lambda row: (-row.total, row.line))


def _measured(lines: Iterable[Line], chat: ChatTokenizer) -> list[RowLength]:
    return preview.measure(((line.number, line.content) for line in lines), chat)
