"""Logs of attempts: pages, bounds, and writes of the owner only."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from app.core.db import Database
from app.core.errors import LostLease, NotFound
from app.core.jobs import attempt_logs
from app.core.jobs.attempt_logs import KEEP_FIRST, KEEP_LAST, PART, LogPage
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Job, LogPart
from tests.properties import examples

TEXT = st.characters(codec="utf-8", exclude_characters="\0")


def write(database: Database, claim: Claim, *texts: str, start: int = 0) -> int:
    """Append each text in a transaction of its own; return the position after the last one."""
    for text in texts:
        with database.transaction() as session:
            attempt_logs.append(session, claim, start, text)
        start += len(text)
    return start


def read(database: Database, claim: Claim, after: int = 0, limit: int = attempt_logs.MAX_PAGE) -> LogPage:
    with database.reading() as session:
        return attempt_logs.read(session, claim.job_id, claim.attempt, after, limit)


def pages(database: Database, claim: Claim, limit: int) -> list[LogPage]:
    """Read the whole log in pages."""
    found = [read(database, claim, 0, limit)]
    while found[-1].has_more:
        found.append(read(database, claim, found[-1].next, limit))
    return found


def rows(database: Database) -> int:
    with database.transaction() as session:
        return session.scalar(select(func.count()).select_from(LogPart)) or 0


def test_lines_share_rows(database: Database, claim: Claim) -> None:
    lines = [f"line {number:04} of the log\n" for number in range(300)]
    write(database, claim, *lines)
    assert read(database, claim).text == "".join(lines)
    assert rows(database) == 1


def test_text_appended_twice_is_stored_once(database: Database, claim: Claim) -> None:
    write(database, claim, "one\n")
    write(database, claim, "one\ntwo\n")
    write(database, claim, "two\n", start=4)
    assert read(database, claim).text == "one\ntwo\n"


def test_middle_of_a_long_log_is_cut(database: Database, claim: Claim) -> None:
    piece = "".join(chr(ord("a") + number % 26) for number in range(PART - 100))
    size = write(database, claim, *[piece] * 120)
    written = piece * 120
    first, last = pages(database, claim, attempt_logs.MAX_PAGE)
    assert (first.start, first.omitted, first.has_more) == (0, 0, True)
    assert KEEP_FIRST <= len(first.text) < KEEP_FIRST + PART
    assert KEEP_LAST <= len(last.text) < KEEP_LAST + PART
    assert (last.start, last.next, last.has_more) == (first.next + last.omitted, size, False)
    assert first.text == written[: first.next]
    assert last.text == written[last.start :]
    assert attempt_logs.omission(last.omitted) == f"\n[... {last.omitted:,} characters left out ...]\n"
    assert read(database, claim, first.next + 7).omitted == last.omitted - 7


def test_no_text_is_cut_that_fits(database: Database, claim: Claim) -> None:
    text = "x" * (KEEP_FIRST + KEEP_LAST)
    write(database, claim, text)
    assert read(database, claim).text == text


@given(texts=st.lists(st.text(TEXT, max_size=40), max_size=8), limit=st.integers(1, 50))
@settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_join_to_the_text(database: Database, claim: Claim, texts: Sequence[str], limit: int) -> None:
    with database.transaction() as session:
        session.execute(delete(LogPart))
    size = write(database, claim, *texts)
    found = pages(database, claim, limit)
    assert "".join(page.text for page in found) == "".join(texts)
    assert all(len(page.text) <= limit for page in found)
    assert found[-1].next == size
    assert read(database, claim, size).text == ""


def test_unstorable_characters_keep_positions(database: Database, claim: Claim) -> None:
    size = write(database, claim, "a\0b\ud800c\n", "next\n")
    page = read(database, claim)
    assert (page.text, page.next) == ("a\N{REPLACEMENT CHARACTER}b?c\nnext\n", size)


def test_lost_lease_appends_nothing(database: Database, claim: Claim) -> None:
    with database.transaction() as session:
        session.execute(update(Job).values(attempt=claim.attempt + 1))
    with pytest.raises(LostLease):
        write(database, claim, "late\n")
    assert rows(database) == 0


def test_unknown_attempt_is_not_found(database: Database, claim: Claim) -> None:
    with database.reading() as session:
        assert attempt_logs.read(session, claim.job_id, None, 0, 10).attempt == claim.attempt
        with pytest.raises(NotFound, match=r"no attempt 7: its latest attempt is 1") as caught:
            attempt_logs.read(session, claim.job_id, 7, 0, 10)
    assert caught.value.param == "attempt"
