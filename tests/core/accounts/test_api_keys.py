"""API keys with a real Postgres."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import event, func, select, update

from app.core.accounts import api_keys, scopes
from app.core.accounts.scopes import Scope
from app.core.accounts.tables import ApiKey, Project
from app.core.db import Database
from app.core.errors import AuthenticationFailed
from tests.setup_jobs import make_project


def test_key_authenticates_for_its_project(database: Database) -> None:
    with database.transaction() as session:
        first, second = make_project(session, "first"), make_project(session, "second")
        text = api_keys.create_key(session, second, "laptop").text
    assert re.fullmatch(r"gt_live_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}_[A-Za-z0-9]{6}", text)
    with database.transaction() as session:
        key = api_keys.authenticate(session, text).key
    assert key.project_id == second != first
    assert key.last4 == text[-4:]


def test_the_secret_is_not_stored(database: Database) -> None:
    with database.transaction() as session:
        text = api_keys.create_key(session, make_project(session), "laptop").text
    secret = text.split("_")[3]
    with database.transaction() as session:
        row = session.scalars(select(ApiKey)).one()
        assert all(secret not in str(value) for value in vars(row).values())


@pytest.mark.parametrize("place", [8, 20, 45, -1])
def test_misspelt_key_needs_no_query(database: Database, place: int) -> None:
    with database.transaction() as session:
        text = api_keys.create_key(session, make_project(session), "laptop").text
    letters = list(text)
    letters[place] = "a" if letters[place] != "a" else "b"
    away = Database("postgresql+psycopg://user@127.0.0.1:1/none")
    with away.transaction() as session, pytest.raises(AuthenticationFailed, match="misspelt"):
        api_keys.authenticate(session, "".join(letters))


def test_unknown_and_revoked_keys_look_alike(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        revoked, deleted = (api_keys.create_key(session, project, name).text for name in ("revoked", "deleted"))
        session.execute(update(ApiKey).where(ApiKey.name == "revoked").values(revoked_at=func.now()))
        session.delete(session.scalars(select(ApiKey).where(ApiKey.name == "deleted")).one())
    for text in (revoked, deleted):
        with (
            database.transaction() as session,
            pytest.raises(AuthenticationFailed, match=r"unknown .* or was revoked"),
        ):
            api_keys.authenticate(session, text)


def test_right_id_with_wrong_secret_is_refused(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        first, second = api_keys.create_key(session, project, "a").text, api_keys.create_key(session, project, "b").text
    body = "_".join([*first.split("_")[:3], second.split("_")[3]])
    forged = f"{body}_{api_keys._checksum(body)}"
    with database.transaction() as session, pytest.raises(AuthenticationFailed, match="unknown"):
        api_keys.authenticate(session, forged)


@pytest.mark.parametrize("text", ["", "sk-proj-123", "gt_live_", "gt_live_äöüäöüäö_x_y", "gt_live_" + "a" * 5000])
def test_other_texts_are_not_keys(database: Database, text: str) -> None:
    with (
        database.transaction() as session,
        pytest.raises(AuthenticationFailed, match="begin with 'gt_live_'"),
    ):
        api_keys.authenticate(session, text)


def test_bootstrap_replaces_only_unknown_keys(database: Database) -> None:
    with database.transaction() as session:
        first = api_keys.ensure_bootstrap(session, None)
    with database.transaction() as session:
        assert api_keys.ensure_bootstrap(session, first) == first
        second = api_keys.ensure_bootstrap(session, "gt_live_of_another_installation")
    assert second != first
    with database.transaction() as session:
        first_key, second_key = (api_keys.authenticate(session, text).key for text in (first, second))
        assert first_key.project_id == second_key.project_id
        assert set(scopes.expand(second_key.scopes)) == set(Scope)
        assert session.scalars(select(Project.name)).all() == ["default"]


@pytest.mark.parametrize("missing", ["admin", "inference"])
def test_bootstrap_replaces_a_key_without_a_scope(database: Database, missing: str) -> None:
    """Keys of version 0.1 lack `inference`."""
    granted = [grant for grant in scopes.ALL if grant != missing]
    with database.transaction() as session:
        plain = api_keys.create_key(session, make_project(session), "plain", granted=granted).text
        assert api_keys.ensure_bootstrap(session, plain) != plain


def test_expired_key_has_its_own_error(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        lasting = api_keys.create_key(session, project, "lasting", expires_in=timedelta(days=1)).text
        ended = api_keys.create_key(session, project, "ended", expires_in=timedelta(seconds=-1)).text
    with database.transaction() as session:
        assert api_keys.authenticate(session, lasting).key.name == "lasting"
        with pytest.raises(AuthenticationFailed, match="expired on 20") as caught:
            api_keys.authenticate(session, ended)
    assert caught.value.code == "api_key_expired"


def test_archived_projects_key_is_refused(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        text = api_keys.create_key(session, project, "laptop").text
        session.execute(update(Project).values(archived_at=func.now()))
    with database.transaction() as session, pytest.raises(AuthenticationFailed, match="archived") as caught:
        api_keys.authenticate(session, text)
    assert caught.value.code == "project_archived"


def test_last_use_is_written_once_a_minute(database: Database) -> None:
    with database.transaction() as session:
        text = api_keys.create_key(session, make_project(session), "laptop").text
    writes: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        writes.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)

    def used() -> int:
        writes.clear()
        with database.transaction() as session:
            api_keys.authenticate(session, text)
        return sum(statement.startswith("UPDATE") for statement in writes)

    assert [used(), used(), used()] == [1, 0, 0]
    with database.transaction() as session:
        before = session.scalars(select(ApiKey.last_used_at)).one()
        session.execute(update(ApiKey).values(last_used_at=func.now() - timedelta(minutes=2)))
    assert used() == 1
    with database.transaction() as session:
        after = session.scalars(select(ApiKey.last_used_at)).one()
    assert before is not None
    assert after is not None
    assert after >= before
    event.remove(database.engine, "before_cursor_execute", count)


def test_recording_the_use_does_not_wait(database: Database) -> None:
    with database.transaction() as session:
        text = api_keys.create_key(session, make_project(session), "laptop").text
    with database.transaction() as other:
        other.scalars(select(ApiKey).with_for_update()).one()
        with database.transaction() as session:
            api_keys.authenticate(session, text)  # a wait for the lock would never end
