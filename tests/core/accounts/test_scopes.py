"""What grants contain."""

import pytest

from app.core.accounts import scopes
from app.core.accounts.scopes import Scope


def test_a_wildcard_contains_its_noun_and_nothing_else() -> None:
    assert scopes.expand(["files:*"]) == {Scope.files_read, Scope.files_write}
    assert scopes.expand(["jobs:read", "webhooks:*"]) == {Scope.jobs_read, Scope.webhooks_read, Scope.webhooks_write}


def test_admin_contains_no_other_scope_and_is_in_no_wildcard() -> None:
    assert scopes.expand(["admin"]) == {Scope.admin}
    assert scopes.expand(scopes.DEFAULT) == set(Scope) - {Scope.admin}
    assert scopes.expand(scopes.ALL) == set(Scope)


def test_unknown_grants_are_refused_when_given_and_worth_nothing_when_stored() -> None:
    with pytest.raises(ValueError, match=r"no scope 'files:'; use some of files:\*"):
        scopes.canonical(["admin", "files:"])
    assert scopes.expand(["*", "admin:*", "files"]) == frozenset()


def test_grants_are_kept_once_and_in_order() -> None:
    assert scopes.canonical(["admin", "files:read", "admin"]) == ("files:read", "admin")
