"""Fixtures of the job machine's tests."""

import pytest

from app.core.db import Database
from app.core.jobs import leases
from app.core.jobs.leases import Claim
from tests.setup_jobs import make_job, make_project


@pytest.fixture
def claim(database: Database) -> Claim:
    """The claim of a job that has just been created."""
    with database.transaction() as session:
        make_job(session, make_project(session))
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        return claim
