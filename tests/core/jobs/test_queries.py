"""Lists page stably by the last id of a page, and never show another project's rows."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from sqlalchemy import update

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, NotFound
from app.core.jobs import leases, lifecycle, queries
from app.core.jobs.events import Event, append
from app.core.jobs.queries import JobOrder
from app.core.jobs.tables import Job, JobAttempt, JobEvent, Metric
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


def test_sorted_pages_have_every_job_once(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        for suffix, reward in (("b", 0.5), ("A", None), (None, 0.25), ("c", 0.5), ("d", None)):
            job = make_job(session, project, supervised().model_copy(update={"suffix": suffix}))
            session.add(Metric(job_id=job.id, step=0, values={"reward": reward, "loss": 1.5, "other": 3}))
    with database.transaction() as session:
        finished = make_job(session, project, supervised().model_copy(update={"metadata": {"name": "B2"}}))
        lifecycle.cancel(session, Actor(project), finished.id)
    cases: dict[tuple[JobOrder, Literal["asc", "desc"]], list[object]] = {
        (JobOrder.reward, "desc"): [0.5, 0.5, 0.25, None, None, None],
        (JobOrder.reward, "asc"): [0.25, 0.5, 0.5, None, None, None],
        (JobOrder.name, "asc"): ["A", "b", "B2", "c", "d", None],
        (JobOrder.name, "desc"): ["d", "c", "B2", "b", "A", None],
        (JobOrder.finished_at, "desc"): ["cancelled", *["queued"] * 5],
        (JobOrder.finished_at, "asc"): ["cancelled", *["queued"] * 5],
        (JobOrder.status, "asc"): ["cancelled", *["queued"] * 5],
        (JobOrder.model, "asc"): ["tiny"] * 6,
        (JobOrder.method, "desc"): ["supervised"] * 6,
    }
    with database.reading() as session:
        for (order_by, order), expected in cases.items():
            seen: list[Job] = []
            more = True
            while more:
                after = seen[-1].id if seen else None
                page, more = queries.list_jobs(session, project, after=after, limit=2, order_by=order_by, order=order)
                seen += page
            assert len({job.id for job in seen}) == len(seen) == 6
            values = queries.last_values(session, seen)
            assert [_shown(job, order_by, values) for job in seen] == expected, (order_by, order)
            assert {len(found) for found in values.values()} == {1, 2}  # the loss, and the reward of some


def _shown(job: Job, order_by: JobOrder, values: dict[str, dict[str, float]]) -> object:
    match order_by:
        case JobOrder.reward:
            return values.get(job.id, {}).get("reward")
        case JobOrder.name:
            return (job.spec["metadata"] or {}).get("name") or job.spec["suffix"]
        case JobOrder.finished_at | JobOrder.status:
            return job.status
    return job.spec[order_by.value]


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
