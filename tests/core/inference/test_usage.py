"""The usage of inference: sums in memory, rows by minute, reports by bucket, and old minutes merged into hours."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from app.core.db import Database
from app.core.inference import usage
from app.core.inference.tables import InferenceUsage
from app.core.inference.usage import Recorder, UsageFilter
from tests.waiting import eventually

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Asker:
    project_id: str = "proj_a"
    key_id: str = "key_a"


def row(start: datetime, model: str = "tiny", project: str = "proj_a", **sums: int) -> dict[str, Any]:
    counted = {"requests": 1, "prompt_tokens": 10, "completion_tokens": 1} | sums
    return {"start": start, "project_id": project, "key_id": "key_a", "model": model, **counted}


def add(database: Database, *rows: dict[str, Any]) -> None:
    with database.transaction() as session:
        for one in rows:
            usage.add_sums(session, [one])


def stored(database: Database) -> list[tuple[Any, ...]]:
    with database.reading() as session:
        found = session.scalars(select(InferenceUsage).order_by(InferenceUsage.start, InferenceUsage.model))
        return [(one.model, one.requests, one.prompt_tokens, one.completion_tokens) for one in found]


def test_requests_of_threads_are_summed(database: Database) -> None:
    recorder = Recorder(database, flush_seconds=0.01)

    def ask() -> None:
        for _ in range(50):
            recorder.add(Asker(), "tiny", 3, 2)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    found = stored(database)  # two rows if a minute ended in between
    assert [sum(one[index] for one in found) for index in (1, 2, 3)] == [200, 600, 400]


def test_usage_is_written_within_a_second(database: Database) -> None:
    recorder = Recorder(database)
    recorder.add(Asker(), "tiny", 5, 7)
    eventually(lambda: stored(database) == [("tiny", 1, 5, 7)])
    recorder.close()


def rename(database: Database, old: str, new: str) -> None:
    with database.transaction() as session:
        session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


def test_usage_waits_for_the_database(database: Database) -> None:
    recorder = Recorder(database, flush_seconds=0.01)
    rename(database, "inference_usage", "hidden")
    try:
        with capture_logs() as logs:
            recorder.add(Asker(), "tiny", 5, 7)
            eventually(lambda: "inference_usage.not_written" in [entry["event"] for entry in logs])
            recorder.add(Asker(), "tiny", 1, 1)
    finally:
        rename(database, "hidden", "inference_usage")
    recorder.close()
    assert [sum(one[index] for one in stored(database)) for index in (1, 2, 3)] == [2, 6, 8]


def test_report_groups_by_model_and_hour(database: Database) -> None:
    add(
        database,
        row(NOON, "a"),
        row(NOON + timedelta(minutes=59), "a"),
        row(NOON + timedelta(minutes=5), "b", project="proj_b"),
        row(NOON + HOUR, "a"),
        row(NOON + 2 * HOUR, "a"),
    )
    with database.reading() as session:
        sums = usage.report(session, NOON, NOON + 2 * HOUR, HOUR, only=UsageFilter(), group_by=("model",))
        own = usage.report(session, NOON, NOON + HOUR, HOUR, only=UsageFilter(project_ids=("proj_b",)))
    assert {start: [(one.group["model"], one.requests) for one in of] for start, of in sums.items()} == {
        NOON: [("a", 2), ("b", 1)],
        NOON + HOUR: [("a", 1)],
    }
    assert [(one.requests, one.prompt_tokens) for one in own[NOON]] == [(1, 10)]


@pytest.mark.parametrize("width", [timedelta(minutes=1), HOUR, timedelta(days=1)])
def test_buckets_start_at_whole_units(width: timedelta) -> None:
    start = usage.bucket_start(NOON + timedelta(minutes=7, seconds=3), width)
    assert NOON + timedelta(minutes=7, seconds=3) - start < width
    assert start.timestamp() % width.total_seconds() == 0


def test_old_minutes_are_merged_into_hours(database: Database) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    old = now - timedelta(days=usage.MINUTES_KEPT_DAYS + 1)
    minutes = [old, old + timedelta(minutes=1), old + timedelta(minutes=59), old + HOUR + timedelta(minutes=3)]
    add(database, *(row(minute) for minute in minutes), row(now + timedelta(minutes=1)))
    for _ in range(2):  # merging again changes nothing
        with database.transaction() as session:
            usage.merge_old(session)
    assert stored(database) == [("tiny", 3, 30, 3), ("tiny", 1, 10, 1), ("tiny", 1, 10, 1)]
