"""A long queue of one project does not delay the first job of another project."""

from app.core.db import Database
from app.core.jobs import leases
from tests.setup_jobs import make_job, make_project, make_queue

LONG = 1000


def test_first_job_of_project_starts_next(database: Database) -> None:
    with database.transaction() as session:
        a, b = make_project(session, "a"), make_project(session, "b")
        make_queue(session, make_job(session, a), LONG - 1)
        for _ in range(3):
            assert leases.claim(session, "w", 60) is not None
        lone = make_job(session, b)
    with database.transaction() as session:
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        assert claim.job_id == lone.id
        following = leases.claim(session, "w", 60)
        assert following is not None
        assert following.project_id == a
