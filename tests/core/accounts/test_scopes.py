"""The scopes that grants include."""

import pytest

from app.core.accounts import scopes
from app.core.accounts.scopes import Scope


def test_wildcard_expands_to_its_noun() -> None:
    assert scopes.expand(["files:*"]) == {Scope.files_read, Scope.files_write}
    assert scopes.expand(["jobs:read", "webhooks:*"]) == {Scope.jobs_read, Scope.webhooks_read, Scope.webhooks_write}


def test_admin_is_separate_from_other_scopes() -> None:
    assert scopes.expand(["admin"]) == {Scope.admin}
    assert scopes.expand(scopes.DEFAULT) == set(Scope) - {Scope.admin}
    assert scopes.expand(scopes.ALL) == set(Scope)


def test_unknown_grants_are_refused_or_ignored() -> None:
    with pytest.raises(ValueError, match=r"unknown scope 'files:'; use one or more of files:\*"):
        scopes.canonical(["admin", "files:"])
    assert scopes.expand(["*", "admin:*", "files"]) == frozenset()


def test_grants_are_unique_and_ordered() -> None:
    assert scopes.canonical(["admin", "files:read", "admin"]) == ("files:read", "admin")
