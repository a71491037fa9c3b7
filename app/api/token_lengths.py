"""Token lengths of a file's rows with a model's tokenizer, from the rows that the validation sampled."""

from collections.abc import Iterable
from typing import BinaryIO

from app.core.chat import preview
from app.core.chat.encoding import RowRules
from app.core.chat.preview import RowLength
from app.core.chat.tokenizer import ChatTokenizer
from app.core.files import reading
from app.core.files.validation_report import FileReport
from app.core.spec.json_lines import Line


def sampled(stream: BinaryIO, report: FileReport, chat: ChatTokenizer, rules: RowRules) -> list[RowLength]:
    """Measure rows from all over the file, or all rows of a small file."""
    return _measured(reading.sampled(stream, report), chat, rules)


def too_long(stream: BinaryIO, report: FileReport, chat: ChatTokenizer, rules: RowRules) -> list[RowLength]:
    """Return the rows over the limit among the longest rows by characters; longest first."""
    measured = _measured(reading.longest(stream, report), chat, rules)
    over = (row for row in measured if max(row.total, row.prompt + rules.max_new_tokens) > rules.max_length)
    return sorted(over, key=lambda row: (-row.total, row.line))


def _measured(lines: Iterable[Line], chat: ChatTokenizer, rules: RowRules) -> list[RowLength]:
    return preview.measure(((line.number, line.content) for line in lines), chat, rules)
