"""The API key that an installation needs before it may listen on the network."""

import pytest

from app.cli import installation
from app.core.accounts import api_key_admin, api_keys
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import BadSetup


def test_network_needs_a_key_of_the_operator(database: Database, migrated_url: str) -> None:
    own = installation.bootstrap(migrated_url, None)
    assert installation.bootstrap(migrated_url, own) == own
    with pytest.raises(BadSetup, match="grouptune keys create NAME"):
        installation.bootstrap_for_network(migrated_url, own)
    with database.transaction() as session:
        actor = Actor(api_keys.authenticate(session, own).project.id, key_id=own.split("_")[2])
        created = api_key_admin.mint(
            session,
            actor,
            project_id=actor.project_id,
            name="laptop",
            granted=["jobs:*"],
            requests_per_minute=None,
            expires_in=None,
        )
    assert installation.bootstrap_for_network(migrated_url, own) == own
    with database.transaction() as session:
        api_key_admin.revoke(session, actor, created.key.id)
    with pytest.raises(BadSetup):
        installation.bootstrap_for_network(migrated_url, own)
