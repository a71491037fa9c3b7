"""API keys against a real Postgres."""

import re

import pytest
from sqlalchemy import func, select, update

from app.core.accounts import api_keys
from app.core.accounts.tables import ApiKey, Project
from app.core.db import Database
from app.core.errors import AuthenticationFailed
from tests.setup_jobs import make_project


def test_a_key_authenticates_for_its_own_project(database: Database) -> None:
    with database.transaction() as session:
        first, second = make_project(session, "first"), make_project(session, "second")
        text = api_keys.create_key(session, second, "laptop")
    assert re.fullmatch(r"gt_live_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}_[A-Za-z0-9]{6}", text)
    with database.transaction() as session:
        key = api_keys.authenticate(session, text)
    assert key.project_id == second != first
    assert key.last4 == text[-4:]


def test_the_secret_is_not_stored(database: Database) -> None:
    with database.transaction() as session:
        text = api_keys.create_key(session, make_project(session), "laptop")
    secret = text.split("_")[3]
    with database.transaction() as session:
        row = session.scalars(select(ApiKey)).one()
        assert all(secret not in str(value) for value in vars(row).values())


@pytest.mark.parametrize("place", [8, 20, 45, -1])
def test_a_misspelt_key_is_refused_before_the_database_is_asked(database: Database, place: int) -> None:
    with database.transaction() as session:
        text = api_keys.create_key(session, make_project(session), "laptop")
    letters = list(text)
    letters[place] = "a" if letters[place] != "a" else "b"
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with away.transaction() as session, pytest.raises(AuthenticationFailed, match="misspelt"):
        api_keys.authenticate(session, "".join(letters))


def test_unknown_and_revoked_keys_are_refused_alike(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        revoked, deleted = (api_keys.create_key(session, project, name) for name in ("revoked", "deleted"))
        session.execute(update(ApiKey).where(ApiKey.name == "revoked").values(revoked_at=func.now()))
        session.delete(session.scalars(select(ApiKey).where(ApiKey.name == "deleted")).one())
    for text in (revoked, deleted):
        with (
            database.transaction() as session,
            pytest.raises(AuthenticationFailed, match=r"unknown .* or was revoked"),
        ):
            api_keys.authenticate(session, text)


def test_the_right_id_with_another_secret_is_refused(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        one, other = api_keys.create_key(session, project, "a"), api_keys.create_key(session, project, "b")
    body = "_".join([*one.split("_")[:3], other.split("_")[3]])
    forged = f"{body}_{api_keys._checksum(body)}"
    with database.transaction() as session, pytest.raises(AuthenticationFailed, match="unknown"):
        api_keys.authenticate(session, forged)


@pytest.mark.parametrize("text", ["", "sk-proj-123", "gt_live_", "gt_live_äöüäöüäö_x_y", "gt_live_" + "a" * 5000])
def test_other_texts_are_no_keys(database: Database, text: str) -> None:
    with (
        database.transaction() as session,
        pytest.raises(AuthenticationFailed, match="begin with 'gt_live_'"),
    ):
        api_keys.authenticate(session, text)


def test_bootstrap_keeps_a_live_key_and_replaces_an_unknown_one(database: Database) -> None:
    with database.transaction() as session:
        first = api_keys.ensure_bootstrap(session, None)
    with database.transaction() as session:
        assert api_keys.ensure_bootstrap(session, first) == first
        second = api_keys.ensure_bootstrap(session, "gt_live_of_another_installation")
    assert second != first
    with database.transaction() as session:
        assert api_keys.authenticate(session, second).project_id == api_keys.authenticate(session, first).project_id
        assert session.scalars(select(Project.name)).all() == ["default"]
