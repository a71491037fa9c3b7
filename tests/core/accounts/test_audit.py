"""The audit log: append-only, and in the transaction of the change."""

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import AuditEntry
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.jobs import leases, lifecycle
from tests.setup_jobs import make_job, make_project

ACTOR = Actor("proj_1", key_id="AbCd1234", ip="192.0.2.1", request_id="req_1")


def test_entries_are_append_only(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, ACTOR, Action.file_delete, "file-1", before={"bytes": 1})
    for change in (update(AuditEntry).values(ip=None), delete(AuditEntry)):
        with pytest.raises(IntegrityError, match="append-only"), database.transaction() as session:
            session.execute(change)
    with database.transaction() as session:
        entry = session.scalars(select(AuditEntry)).one()
        assert (entry.action, entry.object_id, entry.project_id) == ("file.delete", "file-1", "proj_1")
        assert (entry.actor_key_id, entry.ip, entry.request_id) == ("AbCd1234", "192.0.2.1", "req_1")
        assert (entry.before, entry.after) == ({"bytes": 1}, None)
        assert entry.id.startswith("audit_")


def test_rollback_leaves_no_entry(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as session:
            audit.record(session, ACTOR, Action.file_create, "file-1", after={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.transaction() as session:
        assert session.scalars(select(AuditEntry)).all() == []


def test_no_change_is_not_recorded(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, ACTOR, Action.project_update, "proj_1", before={"a": 1}, after={"a": 1})
        assert session.scalars(select(AuditEntry)).all() == []


def test_job_entries_have_before_and_after(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        actor = Actor(project, key_id="AbCd1234")
        job = make_job(session, project)
        lifecycle.pause(session, actor, job.id)
        lifecycle.pause(session, actor, job.id)  # already paused: no change
        lifecycle.resume(session, actor, job.id)
        assert leases.claim(session, "w", 60) is not None
        lifecycle.cancel(session, actor, job.id)
        entries, _ = audit.list_entries(session, after=None, limit=9, object_id=job.id)
    changes = [(entry.action, entry.before, entry.after) for entry in entries[::-1]]
    queued, paused = ({"status": status, "stop_request": None} for status in ("queued", "paused"))
    running = {"status": "running", "stop_request": None}
    assert changes[0][0] == "job.create"
    assert changes[0][2] is not None
    assert (changes[0][2]["model"], changes[0][2]["method"], changes[0][2]["status"]) == (
        "tiny",
        "supervised",
        "queued",
    )
    assert changes[1:] == [
        ("job.pause", queued, paused),
        ("job.resume", paused, queued),
        ("job.cancel", running, running | {"stop_request": "cancel"}),
    ]


def test_entry_pages_are_sorted_and_filtered(database: Database) -> None:
    with database.transaction() as session:
        for number in range(5):
            audit.record(session, ACTOR, Action.file_create, f"file-{number}", after={})
        audit.record(session, Actor("proj_2"), Action.file_create, "file-x", after={})
    with database.transaction() as session:
        first, more = audit.list_entries(session, after=None, limit=3, project_id="proj_1")
        rest, end = audit.list_entries(session, after=first[-1].id, limit=3, project_id="proj_1")
        assert [entry.object_id for entry in [*first, *rest]] == [f"file-{number}" for number in (4, 3, 2, 1, 0)]
        assert (more, end) == (True, False)
        assert audit.list_entries(session, after=None, limit=3, action=Action.job_cancel) == ([], False)
        own, _ = audit.list_entries(session, after=None, limit=9, actor_key_id="AbCd1234")
        assert len(own) == 5
        with pytest.raises(InvalidRequest, match="not the id of an item"):
            audit.list_entries(session, after="audit_none", limit=3)
