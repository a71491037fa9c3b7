"""Authenticates a request by its API key or its browser session, and charges the caller's rate limit."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer

from app.auth import browser
from app.auth.credentials import key_of
from app.auth.principal import Principal
from app.auth.rate_limit import charge
from app.core.accounts import api_keys, browser_sessions, scopes
from app.core.accounts.api_keys import Identity
from app.core.accounts.audit import Actor
from app.core.accounts.limits import EffectiveLimits, limits_of
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.errors import AuthenticationFailed
from app.core.lookup_cache import LookupCache
from app.core.settings import Settings

scheme: Final = HTTPBearer(auto_error=False, description="An API key of this server, `gt_live_...`")
"""Routes that need a caller but declare no scope declare this, so that the OpenAPI document shows it. It reads no key:
`key_of` does, also from the header `api-key`."""
_NAMED_BY: Final = {"openai-project": "mismatched_project", "openai-organization": "mismatched_organization"}
"""Header in which a client may name its project -> error code if the key belongs to another project."""


async def principal(request: Request) -> Principal:
    """Return the caller, charged once per request. Raises `AuthenticationFailed` and `RateLimited`."""
    known: Principal | None = getattr(request.state, "principal", None)  # found by the middleware `caller_first`
    if known is not None:
        return known
    identity = await identify(request)
    _check_named_project(request, identity.project)
    by_key = key_of(request.headers) is not None
    caller = principal_of(request, identity, strict_enums=identity.project.strict_enums and by_key)
    # The middleware `request_ids` adds these headers to every response, errors included.
    answer_headers: dict[str, str] = request.state.answer_headers
    answer_headers["openai-organization"] = caller.project_name
    await charge(request.app.state.rate_limiter, caller, identity.key.requests_per_minute, answer_headers)
    return caller


async def identify(request: Request) -> Identity:
    """Return the live key, or the key of the live browser session, that sends a request.

    Raises `AuthenticationFailed`: also for a key that was valid when the request began, and is revoked or expired now.
    """
    database: Database = request.app.state.database
    key = key_of(request.headers)
    if key is not None:
        cached_keys: LookupCache[bytes, Identity] = request.app.state.cached_keys
        digest = hashlib.sha256(key.encode(errors="replace")).digest()
        return await cached_keys.get(digest, partial(_authenticate, database, api_keys.authenticate, key))
    token = browser.token_of(request)
    if token is None:
        raise AuthenticationFailed
    return await run_in_threadpool(_authenticate, database, browser_sessions.authenticate, token)


def _authenticate(database: Database, authenticate: Callable[[Any, str], Identity], sent: str) -> Identity:
    with database.reading() as session:
        return authenticate(session, sent)


Caller = Annotated[Principal, Depends(principal)]
"""Annotate a handler's parameter with it: the route then requires a key or a session."""


def _check_named_project(request: Request, project: Project) -> None:
    for header, code in _NAMED_BY.items():
        named = request.headers.get(header)
        if named and named not in (project.id, project.name):
            raise AuthenticationFailed(
                f"The header '{header}' names '{named}', but this API key belongs to the project '{project.name}' "
                f"({project.id}). Remove the header, or use a key of that project.",
                code=code,
            )


def principal_of(request: Request, identity: Identity, *, strict_enums: bool = False) -> Principal:
    """Return what a handler needs to know about the caller.

    A browser always gets our own enums, whatever the project's setting.
    """
    key, project = identity.key, identity.project
    return Principal(
        project_id=project.id,
        project_name=project.name,
        key_id=key.id,
        scopes=scopes.expand(key.scopes),
        limits=limits_of(project, default_limits(request.app.state.settings)),
        strict_enums=strict_enums,
        actor=Actor(
            project_id=project.id,
            key_id=key.id,
            ip=request.client.host if request.client else None,
            request_id=request.state.request_id,
        ),
    )


def default_limits(settings: Settings) -> EffectiveLimits:
    """Return the limits of a project that has none of its own."""
    return EffectiveLimits(
        requests_per_minute=settings.max_requests_per_minute,
        running_jobs=settings.max_running_jobs,
        queued_jobs=settings.max_queued_jobs,
        stored_bytes=settings.max_stored_bytes,
        priority=settings.max_priority,
        gpu_hours=settings.max_gpu_hours,
        inference_requests=settings.max_inference_requests,
    )
