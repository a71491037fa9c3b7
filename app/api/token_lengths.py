"""Token lengths of a file's rows with a model's tokenizer, kept for the files that were previewed last."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.core.chat import preview
from app.core.chat.encoding import RowRules
from app.core.chat.preview import RowLength
from app.core.chat.tokenizer import ChatTokenizer
from app.core.chat.tokenizer_settings import last_change
from app.core.files import reading
from app.core.files.validation_report import FileReport
from app.core.spec.json_lines import Line

KEPT: Final = 64
"""Each has at most some 200 kB."""

Lengths = tuple[list[RowLength], list[RowLength]]
"""Those of rows from all over the file (all rows of a small one), and those of its longest rows by characters."""


@dataclass(frozen=True)
class MeasuredFile:
    """What the lengths depend on. The rows of a file never change."""

    file_id: str
    report: FileReport
    model: Path
    variables: dict[str, Any]
    """The `chat_template_kwargs`."""
    rules: RowRules

    @property
    def key(self) -> tuple[object, ...]:
        """The lengths do not depend on the limit that they are compared with."""
        variables = json.dumps(self.variables, sort_keys=True)
        return self.file_id, self.model, last_change(self.model), variables, replace(self.rules, max_length=0)


class LengthCache:
    """Measures rows, and keeps the latest results. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Lengths] = OrderedDict()
        self._lock = threading.Lock()

    def lengths(self, measured: MeasuredFile, stream: BinaryIO, chat: ChatTokenizer) -> Lengths:
        """Return the lengths of the rows in a stream. Raises `TimeoutError` at the tokenizer's deadline."""
        key = measured.key
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            sampled = _measured(reading.sampled(stream, measured.report), chat, measured.rules)
            found = sampled, _measured(reading.longest(stream, measured.report), chat, measured.rules)
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


def _measured(lines: Iterable[Line], chat: ChatTokenizer, rules: RowRules) -> list[RowLength]:
    return preview.measure(((line.number, line.content) for line in lines), chat, rules)
