"""Lists page stably by the last id of a page, and never show another project's rows."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, NotFound
from app.core.jobs import leases, lifecycle, queries
from app.core.jobs.events import Event, append
from app.core.jobs.tables import JobAttempt, JobEvent
from tests.setup_jobs import make_file, make_job, make_project, supervised


def test_job_pages_stable_while_jobs_arrive(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
    made = []
    for _ in range(5):
        with database.transaction() as session:
            made.append(make_job(session, project).id)
    seen: list[str] = []
    after = None
    more = True
    while more:
        with database.transaction() as session:
            page, more = queries.list_jobs(session, project, after=after, limit=2, metadata=None)
            seen += [job.id for job in page]
            after = seen[-1]
            make_job(session, project)
    assert seen == made[::-1]


def test_filter_jobs_by_metadata(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        spec = supervised().model_copy(update={"metadata": {"team": "a", "run": "1"}})
        wanted = make_job(session, project, spec)
        make_job(session, project)
        for metadata, found in (({"team": "a"}, 1), ({"team": "a", "run": "1"}, 1), ({"team": "b"}, 0)):
            jobs, _ = queries.list_jobs(session, project, after=None, limit=9, metadata=metadata)
            assert [job.id for job in jobs] == [wanted.id] * found


def test_filter_jobs_by_status_method_search(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        named = make_job(session, project, supervised().model_copy(update={"suffix": "Sums_1"}))
        tagged = make_job(session, project, supervised().model_copy(update={"metadata": {"team": "tutors"}}))
        lifecycle.cancel(session, Actor(project), tagged.id)
        for query, found in (
            ({"search": "sums_"}, [named]),
            ({"search": "sumsX1"}, []),
            ({"search": "tutor"}, [tagged]),
            ({"search": "%"}, []),
            ({"search": tagged.id[-6:]}, [tagged]),
            ({"search": "tiny", "method": "supervised"}, [tagged, named]),
            ({"method": "gft"}, []),
            ({"status": "queued"}, [named]),
        ):
            jobs, more = queries.list_jobs(session, project, after=None, limit=9, **query)  # type: ignore[arg-type]
            assert ({job.id for job in jobs}, more) == ({job.id for job in found}, False), query


def test_last_step_of_each_attempt(database: Database) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        for attempt, steps in ((1, (1, 2, 3)), (2, (2, 3, 4, 5)), (3, ())):
            begin = start + timedelta(minutes=attempt)
            ended = begin + timedelta(seconds=50) if attempt < 3 else None
            session.add(JobAttempt(job_id=job.id, attempt=attempt, worker="w", started_at=begin, ended_at=ended))
            append(session, job.id, *(Event(f"{step}", "info", "metrics", {"step": step}) for step in steps))
            session.flush()
            session.execute(
                update(JobEvent)
                .where(JobEvent.job_id == job.id, JobEvent.created_at > start + timedelta(days=1))
                .values(created_at=begin + timedelta(seconds=10))
            )
        assert queries.last_steps(session, job.id) == {1: 3, 2: 5}


def test_unknown_after_raises(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        other = make_job(session, make_project(session, "other"))
        for unknown in ("ftjob-none", other.id):
            with pytest.raises(InvalidRequest) as caught:
                queries.list_jobs(session, project, after=unknown, limit=9, metadata=None)
            assert caught.value.param == "after"
        for page in (queries.list_events, queries.list_checkpoints):
            with pytest.raises(InvalidRequest):
                page(session, job.id, after="ftevent-none", limit=9)


def test_event_pages_have_no_gap(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        append(session, job.id, *(Event(str(number)) for number in range(45)))
        seen: list[str] = []
        more = True
        while more:
            page, more = queries.list_events(session, job.id, after=seen[-1] if seen else None, limit=20)
            seen += [event.id for event in page]
        assert len(seen) == len(set(seen)) == 48


def test_get_job_of_other_project(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        other = make_project(session, "other")
        assert queries.get_job(session, job.project_id, job.id).id == job.id
        with pytest.raises(NotFound):
            queries.get_job(session, other, job.id)


def test_queue_positions_follow_age(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)
    jobs = []
    for _ in range(3):
        with database.transaction() as session:
            jobs.append(make_job(session, project, file=file))
    with database.transaction() as session:
        assert queries.queue_positions(session, jobs) == {job.id: n for n, job in enumerate(jobs, 1)}
        leases.claim(session, "w", 60)
    with database.transaction() as session:
        now = [queries.get_job(session, project, job.id) for job in jobs]
        assert queries.queue_positions(session, now[::-1]) == {jobs[1].id: 1, jobs[2].id: 2}
        assert queries.queue_positions(session, now[:1]) == {}
