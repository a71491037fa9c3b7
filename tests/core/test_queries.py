"""Lists page stably by the last id seen; another project's rows do not exist."""

import pytest

from app.core.db import Database
from app.core.errors import InvalidRequest, NotFound
from app.core.jobs import leases, queries
from app.core.jobs.events import Event, append
from tests.setup_jobs import make_file, make_job, make_project, supervised


def test_jobs_page_newest_first_while_new_ones_arrive(database: Database) -> None:
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


def test_jobs_filter_by_metadata(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        spec = supervised().model_copy(update={"metadata": {"team": "a", "run": "1"}})
        wanted = make_job(session, project, spec)
        make_job(session, project)
        for metadata, found in (({"team": "a"}, 1), ({"team": "a", "run": "1"}, 1), ({"team": "b"}, 0)):
            jobs, _ = queries.list_jobs(session, project, after=None, limit=9, metadata=metadata)
            assert [job.id for job in jobs] == [wanted.id] * found


def test_unknown_after_is_an_error(database: Database) -> None:
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


def test_events_page_without_gap_or_double(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        append(session, job.id, *(Event(str(number)) for number in range(45)))
        seen: list[str] = []
        more = True
        while more:
            page, more = queries.list_events(session, job.id, after=seen[-1] if seen else None, limit=20)
            seen += [event.id for event in page]
        assert len(seen) == len(set(seen)) == 48


def test_another_projects_job_is_not_found(database: Database) -> None:
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
