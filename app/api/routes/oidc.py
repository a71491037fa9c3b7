"""`/v1/oidc`: CI systems exchange their ID tokens for keys; administrators choose which repositories to trust."""

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from app.api.deps import Db, Outgoing, Slow, Tokens
from app.api.ids import TrustId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.oidc import CreateTrust, Exchange, ExchangedKey, TrustDeleted, TrustObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import oidc
from app.core.accounts.scopes import Scope
from app.core.db import Database
from app.core.deadline import Deadline
from app.core.egress.client import check_url
from app.core.errors import AuthenticationFailed

router = APIRouter(prefix="/oidc", tags=["CI systems"])


@router.post("/exchange")
async def exchange(request: Request, body: Exchange, database: Db, tokens: Tokens, slow: Slow) -> ExchangedKey:
    """Exchange a CI system's ID token for a key of the project that trusts its repository.

    Needs no key. Each token can be exchanged once.
    """
    issuer = tokens.issuer_of(body.token)
    await run_in_threadpool(_check_trusted, database, issuer)
    ip = request.client.host if request.client else None

    def verify_and_exchange(deadline: Deadline) -> ExchangedKey:
        claims = tokens.verify(body.token, issuer, deadline)
        with database.transaction() as session:
            return ExchangedKey.of(oidc.exchange(session, claims, ip=ip, request_id=request.state.request_id))

    # Each issuer has turns of its own, as if it were a project: anyone can send tokens that name it.
    return await slow.remote.run(request, issuer, verify_and_exchange)


def _check_trusted(database: Database, issuer: str) -> None:
    with database.transaction() as session:
        is_trusted = oidc.is_trusted_issuer(session, issuer)
    if not is_trusted:
        raise AuthenticationFailed(
            f"No project trusts tokens of '{issuer[:255]}'. An administrator can add a trust: grouptune trusts create.",
            code="oidc_not_trusted",
        )


@router.post("/trusts", dependencies=[needs(Scope.admin)])
def create_trust(caller: Caller, body: CreateTrust, database: Db, outgoing: Outgoing) -> TrustObject:
    """Trust the CI system of a repository."""
    terms = body.terms()
    check_url(terms.issuer, outgoing.allowed, "issuer")
    with database.transaction() as session:
        trust = oidc.create_trust(session, caller.actor, body.project_id or caller.project_id, body.name, terms)
        return TrustObject.of(trust)


@router.get("/trusts", dependencies=[needs(Scope.admin)])
def list_trusts(database: Db, after: After = None, limit: Limit = 20) -> Page[TrustObject]:
    """List the trusts of all projects, newest first."""
    with database.reading() as session:
        trusts, more = oidc.list_trusts(session, after=after, limit=limit)
        return page([TrustObject.of(trust) for trust in trusts], more)


@router.delete("/trusts/{trust_id}", dependencies=[needs(Scope.admin)])
def delete_trust(caller: Caller, trust_id: TrustId, database: Db) -> TrustDeleted:
    """Delete a trust. Keys that it issued stay valid until they expire; revoke them to end them at once."""
    with database.transaction() as session:
        oidc.delete_trust(session, caller.actor, trust_id)
    return TrustDeleted(id=trust_id)
