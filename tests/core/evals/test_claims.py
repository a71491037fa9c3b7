"""Which run of an eval a worker takes next."""

from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.evals import claims
from tests.evals import created_run
from tests.setup_jobs import make_project


def next_run(session: Session) -> str:
    claim = claims.claim_next(session, 60)
    assert claim is not None
    return claim.run_id


def test_projects_take_turns(database: Database) -> None:
    queued: list[str] = []
    with database.transaction() as session:
        busy, other = make_project(session, "busy"), make_project(session, "other")
    for project in (busy, busy, other):
        with database.transaction() as session:
            queued.append(created_run(session, project, 1).id)
    claimed: list[str] = []
    for _ in queued:
        with database.transaction() as session:
            claimed.append(next_run(session))
    assert claimed == [queued[0], queued[2], queued[1]]
