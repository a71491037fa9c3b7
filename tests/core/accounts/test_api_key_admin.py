"""Administration of keys: create, revoke and rotate, and the protection of the last administrator."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.core.accounts import api_key_admin, api_keys, audit, projects
from app.core.accounts.audit import Actor
from app.core.accounts.tables import ApiKey, Project
from app.core.db import Database
from app.core.errors import AuthenticationFailed, InvalidRequest
from tests.setup_jobs import make_project

DAY = timedelta(days=1)


def admin(database: Database, project_id: str, **fields: object) -> str:
    """Create an administrator's key; return its id."""
    with database.transaction() as session:
        created = api_keys.create_key(session, project_id, "admin", granted=["admin"], **fields)  # type: ignore[arg-type]
        return created.key.id


@pytest.fixture
def actor(database: Database) -> Actor:
    """An administrator in a separate project."""
    with database.transaction() as session:
        project = make_project(session)
    return Actor(project, key_id=admin(database, project), ip="192.0.2.1", request_id="req_1")


def live(database: Database, text: str) -> bool:
    try:
        with database.transaction() as session:
            api_keys.authenticate(session, text)
    except AuthenticationFailed:
        return False
    return True


def test_rotated_key_and_its_successor(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        old = api_keys.create_key(
            session, actor.project_id, "ci", granted=["jobs:*"], requests_per_minute=9, expires_in=30 * DAY
        )
        new = api_key_admin.rotate(session, actor, old.key.id, timedelta(hours=1))
    with database.transaction() as session:
        was, now = session.get_one(ApiKey, old.key.id), session.get_one(ApiKey, new.key.id)
        for name in ("name", "scopes", "project_id", "requests_per_minute"):
            assert getattr(was, name) == getattr(now, name)
        assert was.expires_at is not None
        assert now.expires_at is not None
        assert was.expires_at - was.created_at == timedelta(hours=1)
        assert now.expires_at - now.created_at == 30 * DAY
        assert (was.replaced_by, now.created_by) == (now.id, actor.key_id)
    assert live(database, old.text)
    assert live(database, new.text)
    with database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == old.key.id).values(expires_at=func.now()))
        with pytest.raises(InvalidRequest, match="has ended"):
            api_key_admin.rotate(session, actor, old.key.id, DAY)
    assert not live(database, old.text)


def test_grace_never_extends_a_key(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        old = api_keys.create_key(session, actor.project_id, "ci", expires_in=timedelta(minutes=5))
        before = old.key.expires_at
        api_key_admin.rotate(session, actor, old.key.id, DAY)
        session.refresh(old.key)
        assert old.key.expires_at == before


def test_rotation_without_grace_and_only_once(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        old = api_keys.create_key(session, actor.project_id, "ci")
        new = api_key_admin.rotate(session, actor, old.key.id, timedelta(0))
    assert (live(database, old.text), live(database, new.text)) == (False, True)
    with database.transaction() as session:
        once = api_keys.create_key(session, actor.project_id, "ci")
        successor = api_key_admin.rotate(session, actor, once.key.id, DAY)
        with pytest.raises(InvalidRequest, match=f"rotate '{successor.key.id}' instead"):
            api_key_admin.rotate(session, actor, once.key.id, DAY)


def test_revoked_key_is_refused_but_listed(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        created = api_keys.create_key(session, actor.project_id, "lost laptop")
        first = api_key_admin.revoke(session, actor, created.key.id).revoked_at
    with database.transaction() as session:
        assert api_key_admin.revoke(session, actor, created.key.id).revoked_at == first
        keys, _ = api_key_admin.list_keys(session, after=None, limit=9)
        assert created.key.id in [key.id for key in keys]
        entries, _ = audit.list_entries(session, after=None, limit=9, object_id=created.key.id)
        assert [entry.action for entry in entries] == ["api_key.revoke"]
    assert not live(database, created.text)


def test_last_administrator_cannot_be_revoked(database: Database, actor: Actor) -> None:
    admin(database, actor.project_id, expires_in=-DAY)  # has ended, so it does not count as an administrator
    assert actor.key_id is not None
    with database.transaction() as session, pytest.raises(InvalidRequest) as caught:
        api_key_admin.revoke(session, actor, actor.key_id)
    assert caught.value.code == "last_admin_key"
    admin(database, actor.project_id)
    with database.transaction() as session:
        assert api_key_admin.revoke(session, actor, actor.key_id).revoked_at is not None


def test_concurrent_revokes_keep_an_administrator(database: Database, actor: Actor) -> None:
    both = [str(actor.key_id), admin(database, actor.project_id)]
    barrier = threading.Barrier(2)

    def revoke(key_id: str) -> bool:
        barrier.wait()
        try:
            with database.transaction() as session:
                api_key_admin.revoke(session, actor, key_id)
        except InvalidRequest:
            return False
        return True

    for _ in range(5):
        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(revoke, both)) == [False, True]
        with database.transaction() as session:
            session.execute(update(ApiKey).values(revoked_at=None))


def test_mint_needs_an_active_project(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        archived = make_project(session, "archived")
        session.execute(update(Project).where(Project.id == archived).values(archived_at=func.now()))
    for project_id, message in (("proj_none", "no project 'proj_none'"), (archived, "is archived")):
        with database.transaction() as session, pytest.raises(InvalidRequest, match=message) as caught:
            api_key_admin.mint(
                session,
                actor,
                project_id=project_id,
                name="x",
                granted=["admin"],
                requests_per_minute=None,
                expires_in=None,
            )
        assert caught.value.param == "project_id"


def test_any_minted_ignores_the_bootstrap_key(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        api_keys.ensure_bootstrap(session, None)
        assert not api_key_admin.any_minted(session)
        created = api_keys.create_key(session, actor.project_id, "laptop", created_by=actor.key_id)
        assert api_key_admin.any_minted(session)
        api_key_admin.revoke(session, actor, created.key.id)
        assert not api_key_admin.any_minted(session)


def test_key_pages_are_complete_and_sorted(database: Database, actor: Actor) -> None:
    created = []
    for number in range(5):
        with database.transaction() as session:
            created.append(api_keys.create_key(session, actor.project_id, str(number)).key.id)
    seen: list[str] = []
    with database.transaction() as session:
        more, after = True, None
        while more:
            page, more = api_key_admin.list_keys(session, after=after, limit=2)
            seen += [key.id for key in page]
            after = seen[-1]
        assert seen == [*created[::-1], actor.key_id]
        with pytest.raises(InvalidRequest, match="not the id of an item"):
            api_key_admin.list_keys(session, after="unknown", limit=2)


def test_last_administrators_project_stays_active(database: Database) -> None:
    with database.transaction() as session:
        default, other = make_project(session), make_project(session, "other")
    actor = Actor(other, key_id=admin(database, other))
    with database.transaction() as session, pytest.raises(InvalidRequest, match="last administrator"):
        projects.update_project(session, actor, other, archived=True, settings={})
    with database.transaction() as session, pytest.raises(InvalidRequest, match="installation's own key"):
        projects.update_project(session, actor, default, archived=True, settings={})
    admin(database, default)
    with database.transaction() as session:
        assert projects.update_project(session, actor, other, archived=True, settings={}).archived_at is not None
        assert projects.update_project(session, actor, other, archived=False, settings={}).archived_at is None


def test_project_update_keeps_other_settings(database: Database, actor: Actor) -> None:
    with database.transaction() as session:
        project = projects.create_project(session, actor, "lab", {"max_running_jobs": 2})
        projects.update_project(session, actor, project.id, archived=None, settings={"max_queued_jobs": 7})
        changed = projects.update_project(
            session, actor, project.id, archived=None, settings={"max_running_jobs": None}
        )
        assert (changed.max_running_jobs, changed.max_queued_jobs) == (None, 7)
        entries, _ = audit.list_entries(session, after=None, limit=9, project_id=project.id)
        assert [entry.action for entry in entries] == ["project.update", "project.update", "project.create"]
        assert entries[0].before is not None
        assert entries[0].after is not None
        assert (entries[0].before["max_running_jobs"], entries[0].after["max_running_jobs"]) == (2, None)
        with pytest.raises(InvalidRequest, match="'lab' already exists"):
            projects.create_project(session, actor, "lab", {})
        assert session.scalar(select(func.count()).select_from(Project).where(Project.name == "lab")) == 1
