"""`check` rejects an app with a route that declares no scope."""

import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import PlainTextResponse

from app.auth.scopes import check, needs
from app.core.accounts.scopes import Scope
from app.core.errors import BadSetup

DOCUMENT = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}


@pytest.fixture
def app() -> FastAPI:
    """An app with one valid route, two routers deep."""
    inner, outer, app = APIRouter(prefix="/files"), APIRouter(prefix="/v1"), FastAPI()
    inner.add_api_route("", lambda: None, dependencies=[needs(Scope.files_read)])
    outer.include_router(inner)
    app.include_router(outer)
    return app


def test_app_with_a_scope_on_every_route_passes(app: FastAPI) -> None:
    check(app, DOCUMENT)


def test_router_scope_covers_its_routes(app: FastAPI) -> None:
    router = APIRouter(prefix="/keys", dependencies=[needs(Scope.admin)])
    router.add_api_route("", lambda: None)
    app.include_router(router)
    check(app, DOCUMENT)


def test_route_without_scope_is_rejected(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1/open")
    router.add_api_route("/door", lambda: None, methods=["POST"])
    app.include_router(router)
    with pytest.raises(BadSetup, match=r"\['POST'\] /v1/open/door declares no scope"):
        check(app, DOCUMENT)


def test_plain_routes_and_mounts_are_rejected(app: FastAPI) -> None:
    app.add_route("/metrics", lambda _request: PlainTextResponse(""))
    with pytest.raises(BadSetup, match="/metrics declares no scope"):
        check(app, DOCUMENT)
    check(app, DOCUMENT | {"/metrics"})
    app.mount("/static", PlainTextResponse(""))
    with pytest.raises(BadSetup, match="/static declares no scope"):
        check(app, DOCUMENT | {"/metrics"})


def test_conflicting_scopes_are_rejected(app: FastAPI) -> None:
    with pytest.raises(BadSetup, match="/v1/files declares"):
        check(app, DOCUMENT | {"/v1/files"})
    app.add_api_route("/both", lambda: None, dependencies=[needs(Scope.admin), needs(Scope.files_read)])
    with pytest.raises(BadSetup, match="/both declares"):
        check(app, DOCUMENT)
