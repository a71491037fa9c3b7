"""Stores the log of an attempt with its job while the attempt runs, without its secrets."""

import contextvars
import re
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable, LostLease
from app.core.jobs import attempt_logs
from app.core.jobs.attempt_logs import KEEP_FIRST, KEEP_LAST
from app.core.jobs.leases import Claim
from worker.process_control import ProcessControl
from worker.redaction import Redactor
from worker.report_writer import retry_until_available

log = structlog.get_logger(__name__)

SHIP_SECONDS: Final = 1.0
"""How often new text is looked for. The database is used only when there is some."""
READ_BYTES: Final = 256 * 1024
"""Bytes that one transaction stores, and the longest line: a longer one is stored in several pieces."""

_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b\x0c\x0e-\x1f]"
)
"""Colours and other instructions for terminals, and control characters except tabs and ends of lines."""


@dataclass(frozen=True)
class _Piece:
    """New text, with the position in the stored log where it begins and the one in the file where it ends."""

    start: int
    text: str
    end_in_file: int


class LogShipper:
    """Ships a log in a thread of its own during a `with` block, and the rest at the end of the block."""

    def __init__(
        self, database: Database, claim: Claim, control: ProcessControl, file: Path, redactor: Redactor
    ) -> None:
        """`file` need not exist yet; processes append to it."""
        self._database = database
        self._claim = claim
        self._control = control
        self._file = file
        self._redactor = redactor
        self._read = 0
        """Bytes of the file that are stored or skipped."""
        self._position = 0
        """Position in the stored log that follows from them."""
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name=f"log-{claim.job_id}", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ship the rest before the outcome of the attempt is written. Raises `LostLease`."""
        self._over.set()
        self._thread.join()
        try:
            retry_until_available(self._control, partial(self.ship, is_complete=True))
        except OSError as failure:  # the log must not fail the job
            log.warning("log.not_shipped", error=str(failure))

    def _run(self) -> None:
        while not self._over.wait(SHIP_SECONDS):
            try:
                self.ship()
            except DatabaseUnavailable:
                log.warning("log.database_unavailable")
            except LostLease:
                return  # the lease keeper fences the attempt
            except OSError as failure:
                log.warning("log.not_shipped", error=str(failure))

    def ship(self, *, is_complete: bool = False) -> None:
        """Store all complete lines; with `is_complete`, also an unfinished last one."""
        while (piece := self._next(is_complete)) is not None:
            with self._database.transaction() as session:
                attempt_logs.append(session, self._claim, piece.start, piece.text)
            self._read, self._position = piece.end_in_file, piece.start + len(piece.text)

    def _next(self, is_complete: bool) -> _Piece | None:
        """Return the next text to store, None if there is none. Skips text of which neither end would be kept."""
        try:
            size = self._file.stat().st_size
        except FileNotFoundError:
            return None
        begin, position = self._read, self._position
        is_cut = position >= KEEP_FIRST and size - begin > KEEP_LAST
        if is_cut:
            begin, position = size - KEEP_LAST, position + size - KEEP_LAST - begin
        if size == begin:
            return None
        with self._file.open("rb") as stream:
            stream.seek(begin)
            data = stream.read(READ_BYTES)
        if is_cut:  # begins in the middle of a line, which may be the middle of a secret
            skipped = _end(data.find(b"\n"), data.find(b"\r"), is_first=True)
            data, begin, position = data[skipped:], begin + skipped, position + skipped
        end = _end(data.rfind(b"\n"), data.rfind(b"\r"), is_first=False)
        if len(data) == READ_BYTES and end == 0:  # a very long line
            end = data.rfind(b" ") + 1 or len(data)
        elif is_complete and begin + len(data) >= size:
            end = len(data)
        if end == 0:
            return None
        return _Piece(position, self._redactor.redact(_plain(data[:end].decode(errors="replace"))), begin + end)


def _end(line_feed: int, carriage_return: int, *, is_first: bool) -> int:
    """Return the index after one of two characters, each at an index or at -1; 0 without both."""
    found = [index + 1 for index in (line_feed, carriage_return) if index >= 0]
    return (min if is_first else max)(found, default=0)


def _plain(text: str) -> str:
    """Return text as a terminal would show it: without colours, and of a progress bar only the last state."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    if text.endswith("\r"):
        text = text[:-1] + "\n"
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
