"""Usage of inference: requests and tokens by minute, project, key and model.

Requests are added in memory, and a thread writes the sums once a second. A process that is killed loses at most the
requests of its last second; while the database is unavailable, the sums wait in memory.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.errors import GrouptuneError
from app.core.inference.tables import InferenceUsage

log = structlog.get_logger(__name__)

FLUSH_SECONDS: Final = 1.0
MINUTES_KEPT_DAYS: Final = 14
"""Older minutes are merged into hours."""

EPOCH: Final = datetime.fromtimestamp(0, UTC)
GROUPS: Final = ("project_id", "api_key_id", "model")
"""Fields that a report can be grouped by."""
_COLUMNS: Final[dict[str, Any]] = {
    "project_id": InferenceUsage.project_id,
    "api_key_id": InferenceUsage.key_id,
    "model": InferenceUsage.model,
}
_SUMS: Final = ("requests", "prompt_tokens", "completion_tokens")
_KEY: Final = ("start", "project_id", "key_id", "model")

_Key = tuple[datetime, str, str, str]


class Caller(Protocol):
    """The project and key that a request belongs to."""

    @property
    def project_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...


class Recorder:
    """Adds up the usage of one API process and writes it to the database. Thread-safe."""

    def __init__(self, database: Database, *, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._database = database
        self._flush_seconds = flush_seconds
        self._lock = threading.Lock()
        self._sums: dict[_Key, list[int]] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, caller: Caller, model_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count one request of `caller` that `model_id` answered. Does not wait for the database."""
        minute = datetime.now(UTC).replace(second=0, microsecond=0)
        with self._lock:
            self._merge((minute, caller.project_id, caller.key_id, model_id), (1, prompt_tokens, completion_tokens))
            if self._thread is None and not self._closing.is_set():
                # Starts with the first request: commands that only build the app need no thread.
                self._thread = threading.Thread(target=self._run, name="inference-usage", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what is left and stop the thread. Logs the sums that the database does not accept any more."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if not self._flush():
            log.error("inference_usage.lost", rows=[[str(part) for part in row] for row in self._rows(self._sums)])

    def _run(self) -> None:
        while not self._closing.wait(self._flush_seconds):
            self._flush()

    def _flush(self) -> bool:
        """Write the sums. Keeps them and returns False if the database does not accept them."""
        with self._lock:
            sums, self._sums = self._sums, {}
        if not sums:
            return True
        try:
            with self._database.transaction() as session:
                add_sums(session, self._rows(sums))
        except (GrouptuneError, SQLAlchemyError) as error:
            log.warning("inference_usage.not_written", rows=len(sums), error=str(error))
            with self._lock:
                for key, values in sums.items():
                    self._merge(key, values)
            return False
        return True

    def _merge(self, key: _Key, values: Sequence[int]) -> None:
        old = self._sums.get(key, (0, 0, 0))
        self._sums[key] = [first + second for first, second in zip(old, values, strict=True)]

    @staticmethod
    def _rows(sums: dict[_Key, list[int]]) -> list[dict[str, Any]]:
        # Sorted: two processes that write the same rows in different orders could deadlock.
        return [dict(zip((*_KEY, *_SUMS), (*key, *values), strict=True)) for key, values in sorted(sums.items())]


def add_sums(session: Session, rows: list[dict[str, Any]]) -> None:
    """Add rows with the columns of `InferenceUsage` to the rows of the same minute, project, key and model."""
    statement = insert(InferenceUsage)
    added = {name: getattr(InferenceUsage, name) + statement.excluded[name] for name in _SUMS}
    session.execute(statement.values(rows).on_conflict_do_update(index_elements=_KEY, set_=added))


def merge_old(session: Session) -> None:
    """Merge the minutes that are older than `MINUTES_KEPT_DAYS` into hours, so that the table stays small."""
    # The row of an hour is the one of its first minute. It is never deleted here: an INSERT cannot update a row that
    # the same statement deletes.
    session.execute(
        text(
            """
            WITH old AS (
                DELETE FROM inference_usage
                WHERE start < date_trunc('hour', now()) - make_interval(days => :days)
                  AND start <> date_trunc('hour', start, 'UTC')
                RETURNING *
            )
            INSERT INTO inference_usage (start, project_id, key_id, model, requests, prompt_tokens, completion_tokens)
            SELECT date_trunc('hour', start, 'UTC'), project_id, key_id, model,
                   sum(requests), sum(prompt_tokens), sum(completion_tokens)
            FROM old GROUP BY 1, 2, 3, 4
            ON CONFLICT (start, project_id, key_id, model) DO UPDATE SET
                requests = inference_usage.requests + excluded.requests,
                prompt_tokens = inference_usage.prompt_tokens + excluded.prompt_tokens,
                completion_tokens = inference_usage.completion_tokens + excluded.completion_tokens
            """
        ),
        {"days": MINUTES_KEPT_DAYS},
    )


@dataclass(frozen=True)
class UsageFilter:
    """What a report includes. An empty tuple includes everything."""

    project_ids: tuple[str, ...] = ()
    api_key_ids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions of the rows."""
        sent = ((InferenceUsage.project_id, self.project_ids), (InferenceUsage.key_id, self.api_key_ids))
        return [column.in_(values) for column, values in (*sent, (InferenceUsage.model, self.models)) if values]


@dataclass(frozen=True)
class UsageSum:
    """The usage of one group in one bucket."""

    group: dict[str, str]
    """The values of the fields that the report is grouped by."""
    requests: int
    prompt_tokens: int
    completion_tokens: int


def bucket_start(moment: datetime, width: timedelta) -> datetime:
    """Return the start of the bucket that contains `moment`. Buckets are aligned to midnight UTC."""
    return moment - (moment - EPOCH) % width


def report(
    session: Session,
    start: datetime,
    end: datetime,
    width: timedelta,
    *,
    only: UsageFilter,
    group_by: Sequence[str] = (),
) -> dict[datetime, list[UsageSum]]:
    """Return the usage from `start` to before `end`, by the start of the bucket; buckets without usage are absent.

    `width` is the length of a bucket, and `group_by` has names of `GROUPS`. Merged hours count in their first minute.
    """
    bucket = func.date_bin(width, InferenceUsage.start, EPOCH).label("bucket")
    columns = [_COLUMNS[name].label(name) for name in group_by]
    sums = [func.sum(getattr(InferenceUsage, name)).label(name) for name in _SUMS]
    statement = (
        select(bucket, *columns, *sums)
        .where(InferenceUsage.start >= start, InferenceUsage.start < end, *only.conditions())
        .group_by(bucket, *columns)
        .order_by(bucket, *columns)
    )
    buckets: dict[datetime, list[UsageSum]] = defaultdict(list)
    for row in session.execute(statement).mappings():
        group = {name: row[name] for name in group_by}
        buckets[row["bucket"]].append(UsageSum(group, **{name: int(row[name]) for name in _SUMS}))
    return buckets
