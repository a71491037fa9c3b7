"""How long a file's rows are with a model's tokenizer, from the rows that its validation took note of."""

from collections.abc import Iterable
from typing import BinaryIO

from app.core.chat import preview
from app.core.chat.preview import RowLength
from app.core.chat.tokenizer import ChatTokenizer
from app.core.files import reading
from app.core.files.reading import Line
from app.core.files.validation_report import FileReport


def sampled(stream: BinaryIO, report: FileReport, chat: ChatTokenizer) -> list[RowLength]:
    """Of rows from all over the file, of all of a small one."""
    return _measured(reading.sampled(stream, report), chat)


def too_long(stream: BinaryIO, report: FileReport, chat: ChatTokenizer, max_length: int) -> list[RowLength]:
    """Those of the longest rows, by characters, that are over `max_length` tokens; longest first."""
    over = (one for one in _measured(reading.longest(stream, report), chat) if one.total > max_length)
    return sorted(over, key=lambda one: (-one.total, one.line))


def _measured(lines: Iterable[Line], chat: ChatTokenizer) -> list[RowLength]:
    return preview.measure(((line.number, line.content) for line in lines), chat)
