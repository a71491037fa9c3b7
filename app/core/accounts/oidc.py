"""OIDC trusts: which CI systems can exchange tokens for API keys of a project. Callers verify the tokens first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit, scopes
from app.core.accounts.api_keys import NewKey, create_key
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import OidcToken, OidcTrust, Project
from app.core.errors import AuthenticationFailed, InvalidRequest, NotFound

KEY_SECONDS: Final = 900
GRANTED: Final = ("files:*", "jobs:*", "models:read")
"""Scopes that a CI system needs to upload data, run jobs and download models."""
MAX_NAME: Final = 64
_AUDITED: Final = ("name", "provider", "issuer", "audience", "repository_id", "ref", "scopes", "key_seconds")


class Provider(StrEnum):
    """The CI system whose claims a trust reads."""

    github = "github"
    gitlab = "gitlab"


ISSUERS: Final = {Provider.github: "https://token.actions.githubusercontent.com", Provider.gitlab: "https://gitlab.com"}
"""The default issuer of each provider."""
_CLAIMS: Final = {Provider.github: ("repository_id", "ref"), Provider.gitlab: ("project_id", "ref_path")}
"""Provider -> the names of its claims for the repository's id and for the full ref."""


@dataclass(frozen=True)
class TrustTerms:
    """The tokens that a trust accepts, and the scopes and lifetime of the keys it issues."""

    provider: Provider
    issuer: str
    audience: str
    repository_id: str
    ref: str | None
    """For example `refs/heads/main`; None accepts every ref."""
    granted: tuple[str, ...]
    key_seconds: int


def create_trust(session: Session, actor: Actor, project_id: str, name: str, terms: TrustTerms) -> OidcTrust:
    """Create a trust. Raises `InvalidRequest` if the project is missing or archived, or the trust exists already."""
    project = session.get(Project, project_id, with_for_update={"read": True})
    if project is None or project.archived_at is not None:
        raise InvalidRequest(
            f"There is no active project '{project_id}'. GET /v1/projects lists the projects.", param="project_id"
        )
    trust = OidcTrust(
        id=ids.oidc_trust_id(),
        project_id=project_id,
        name=name,
        provider=terms.provider,
        issuer=terms.issuer,
        audience=terms.audience,
        repository_id=terms.repository_id,
        ref=terms.ref,
        scopes=list(scopes.canonical(terms.granted)),
        key_seconds=terms.key_seconds,
        created_by=actor.key_id,
    )
    try:
        with session.begin_nested():
            session.add(trust)
    except IntegrityError as error:
        raise InvalidRequest(
            f"Repository {terms.repository_id} of {terms.issuer} is already trusted with this audience and "
            f"{'ref' if terms.ref else 'every ref'}. Delete that trust first.",
            code="trust_exists",
        ) from error
    session.refresh(trust)
    after = audit.snapshot(trust, *_AUDITED)
    audit.record(session, actor, Action.trust_create, trust.id, project_id=project_id, after=after)
    return trust


def list_trusts(session: Session, *, after: str | None, limit: int) -> tuple[list[OidcTrust], bool]:
    """Return a page of all projects' trusts, newest first, and whether more follow. Raises `InvalidRequest`."""
    statement = select(OidcTrust)
    if after is not None:
        seen = session.get(OidcTrust, after)
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        statement = statement.where(tuple_(OidcTrust.created_at, OidcTrust.id) < tuple_(seen.created_at, seen.id))
    rows = session.scalars(statement.order_by(OidcTrust.created_at.desc(), OidcTrust.id.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def delete_trust(session: Session, actor: Actor, trust_id: str) -> None:
    """Delete a trust. Keys that it issued stay valid until they expire. Raises `NotFound`."""
    trust = session.get(OidcTrust, trust_id, with_for_update=True)
    if trust is None:
        raise NotFound(f"There is no trust '{trust_id}'. GET /v1/oidc/trusts lists the trusts.")
    before = audit.snapshot(trust, *_AUDITED)
    audit.record(session, actor, Action.trust_delete, trust.id, project_id=trust.project_id, before=before)
    session.delete(trust)


def is_trusted_issuer(session: Session, issuer: str) -> bool:
    """Return whether a trust names this issuer. The server fetches nothing from other issuers."""
    return session.scalar(select(select(OidcTrust.id).where(OidcTrust.issuer == issuer).exists())) is True


def exchange(session: Session, claims: Mapping[str, Any], *, ip: str | None, request_id: str | None) -> NewKey:
    """Issue a key for a verified token with these claims; each token can be exchanged once.

    Raises `AuthenticationFailed` if no trust accepts the token or it was exchanged before.
    """
    trust = _find_trust(session, claims)
    _record_token(session, claims)
    new_key = create_key(
        session,
        trust.project_id,
        f"{trust.name}: {claims.get('sub', '')}"[:MAX_NAME],
        granted=trust.scopes,
        expires_in=timedelta(seconds=trust.key_seconds),
        created_by=trust.created_by,
    )
    after = audit.snapshot(new_key.key, "name", "scopes", "expires_at") | {
        "trust": trust.id,
        "token": {name: str(claims[name])[:255] for name in ("iss", "sub", "jti", "ref", "run_id") if name in claims},
    }
    actor = Actor(trust.project_id, ip=ip, request_id=request_id)
    audit.record(session, actor, Action.key_create, new_key.key.id, after=after)
    return new_key


def _find_trust(session: Session, claims: Mapping[str, Any]) -> OidcTrust:
    """Return the trust for these claims; a trust of the exact ref takes precedence over one of every ref."""
    statement = (
        select(OidcTrust)
        .join(Project, Project.id == OidcTrust.project_id)
        .where(OidcTrust.issuer == claims["iss"], Project.archived_at.is_(None))
        .order_by(OidcTrust.ref.is_(None), OidcTrust.created_at)
    )
    for trust in session.scalars(statement):
        repository, ref = (str(claims.get(name, "")) for name in _CLAIMS[Provider(trust.provider)])
        if trust.repository_id == repository and trust.audience == claims["aud"] and trust.ref in (None, ref):
            return trust
    described = ", ".join(
        f"{name} '{claims[name]}'" for name in ("aud", *sum(_CLAIMS.values(), ())) if claims.get(name) is not None
    )
    raise AuthenticationFailed(
        f"No project trusts this token of {claims['iss']} ({described}). An administrator can add a trust: "
        "grouptune trusts create.",
        code="oidc_not_trusted",
    )


def _record_token(session: Session, claims: Mapping[str, Any]) -> None:
    session.execute(
        delete(OidcToken).where(OidcToken.expires_at < func.now()), execution_options={"synchronize_session": False}
    )
    # An expired token is refused by the verifier, so its row is no longer needed. The five minutes cover the leeway.
    expires = datetime.fromtimestamp(claims["exp"], UTC) + timedelta(minutes=5)
    new = insert(OidcToken).values(issuer=claims["iss"], jti=claims["jti"], expires_at=expires)
    if session.scalar(new.on_conflict_do_nothing().returning(OidcToken.jti)) is None:
        raise AuthenticationFailed(
            "This token has already been exchanged for a key. Request a new one from the CI system.",
            code="oidc_token_replayed",
        )
