"""Checkpoints as models: their names, which are kept, and which are deleted with their models."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.jobs import checkpoints, leases, lifecycle, queries
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.jobs.leases import Claim
from app.core.jobs.tables import RemovedCheckpoint
from app.core.models import permissions
from app.core.models.adapters import starting_point
from app.core.models.tables import TrainedModel
from tests.setup_jobs import make_job, make_project, supervised
from tests.waiting import eventually


@pytest.fixture
def claim(database: Database) -> Claim:
    with database.transaction() as session:
        project = make_project(session)
        make_job(session, project, supervised().model_copy(update={"suffix": "sums"}))
        found = leases.claim(session, "test", 60)
    assert found is not None
    return found


def record(database: Database, claim: Claim, *steps: int) -> list[str]:
    forgotten: list[str] = []
    for step in steps:
        with database.transaction() as session:
            leases.hold(session, claim)
            forgotten += checkpoints.record(
                session, claim, StoredCheckpoint(step, f"blob-{step}", {}, has_adapter=True)
            )
    return forgotten


def name(claim: Claim, step: int) -> str:
    return f"ft:tiny:default:sums:{claim.job_id[-8:]}:ckpt-step-{step}"


def steps(session: Session, claim: Claim) -> list[int]:
    kept = [row.step for row in queries.latest_checkpoints(session, claim.job_id)]
    models = session.scalars(select(TrainedModel.step).where(TrainedModel.job_id == claim.job_id)).all()
    assert sorted(kept) == sorted(step for step in models if step is not None)
    return kept


def is_blocked(database: Database) -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.transaction() as session:
        return bool(session.scalar(waiting))


def test_checkpoint_model_deleted_with_checkpoint(database: Database, claim: Claim) -> None:
    assert record(database, claim, 10, 20, 30) == ["blob-10"]
    with database.transaction() as session:
        assert steps(session, claim) == [30, 20]
        removed = select(RemovedCheckpoint.step).where(RemovedCheckpoint.job_id == claim.job_id)
        assert session.scalars(removed).all() == [10]
        model = session.get_one(TrainedModel, name(claim, 30))
        assert (model.base_model, model.blob, model.step, model.has_adapter) == ("tiny", "blob-30", 30, True)
        assert model.project_id == claim.project_id


def test_rewritten_step_keeps_model_name(database: Database, claim: Claim) -> None:
    record(database, claim, 10)
    with database.transaction() as session:
        checkpoints.record(session, claim, StoredCheckpoint(10, "blob-of-a2", {}))
        model = session.get_one(TrainedModel, name(claim, 10))
        assert (model.blob, model.has_adapter) == ("blob-of-a2", False)


def test_shared_checkpoint_is_kept(database: Database, claim: Claim) -> None:
    record(database, claim, 10)
    with database.transaction() as session:
        other = make_project(session, "other")
        (permission,) = permissions.grant(session, claim.project_id, name(claim, 10), [other])
    assert record(database, claim, 20, 30, 40) == ["blob-20"]
    with database.transaction() as session:
        assert steps(session, claim) == [40, 30, 10]
        permissions.revoke(session, claim.project_id, name(claim, 10), permission.id)
    assert sorted(record(database, claim, 50)) == ["blob-10", "blob-30"]


def test_checkpoint_used_by_live_job_is_kept(database: Database, claim: Claim) -> None:
    record(database, claim, 10)
    with database.transaction() as session:
        job = make_job(session, claim.project_id, supervised().model_copy(update={"model": name(claim, 10)}))
    assert record(database, claim, 20, 30) == []
    with database.transaction() as session:
        lifecycle.cancel(session, Actor(claim.project_id), job.id)
    assert sorted(record(database, claim, 40)) == ["blob-10", "blob-20"]


def test_uncommitted_job_holds_its_checkpoint(database: Database, claim: Claim, tmp_path: Path) -> None:
    record(database, claim, 10, 20)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            starting_point(session, claim.project_id, name(claim, 10), tmp_path)
            forgetting = pool.submit(record, database, claim, 30)
            eventually(lambda: is_blocked(database))
            make_job(session, claim.project_id, supervised().model_copy(update={"model": name(claim, 10)}))
        assert forgetting.result(10) == []
    with database.transaction() as session:
        assert steps(session, claim) == [30, 20, 10]
