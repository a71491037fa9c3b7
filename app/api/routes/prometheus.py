"""`/metrics` for Prometheus: outside `/v1`, with its own access rule instead of API keys.

If `GROUPTUNE_METRICS_TOKEN` is set, requests must send it. Otherwise only requests from this machine are accepted, and
none that passed a proxy, because a proxy on this machine may forward the requests of others.
"""

import hmac
from ipaddress import ip_address
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.deps import Config, Db
from app.core.db import Database
from app.core.errors import AuthenticationFailed, DatabaseUnavailable, PermissionDenied
from app.core.jobs import queries
from app.core.prometheus import CONTENT_TYPE, Backlog, exposition

router = APIRouter(tags=["Health"])

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip")


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, settings: Config, database: Db) -> Response:
    """Return the counters of this process, and the backlog of jobs."""
    check_reader(request, settings.metrics_token.get_secret_value() if settings.metrics_token else None)
    return Response(exposition(lambda: _backlog(database)), headers={"content-type": CONTENT_TYPE})


def check_reader(request: Request, token: str | None) -> None:
    """Raises `AuthenticationFailed` for a wrong token; without a token, `PermissionDenied` for remote clients."""
    if token is not None:
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            raise AuthenticationFailed("Send GROUPTUNE_METRICS_TOKEN in the header `Authorization: Bearer <token>`.")
        return
    is_proxied = any(name in request.headers for name in FORWARDED)
    if is_proxied or request.client is None or not ip_address(request.client.host).is_loopback:
        raise PermissionDenied(
            "Without GROUPTUNE_METRICS_TOKEN, metrics are available on this machine only. Set it, and send it as a "
            "bearer token."
        )


def _backlog(database: Database) -> Backlog | None:
    try:
        with database.reading() as session:
            return queries.backlog(session)
    except DatabaseUnavailable:
        return None
