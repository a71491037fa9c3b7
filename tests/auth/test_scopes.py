"""No scope, no route: what `check` refuses to compose."""

import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import PlainTextResponse

from app.auth.scopes import check, needs
from app.core.accounts.scopes import Scope
from app.core.errors import BadSetup

DOCUMENT = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}


@pytest.fixture
def app() -> FastAPI:
    """One good route, two routers deep."""
    inner, outer, app = APIRouter(prefix="/files"), APIRouter(prefix="/v1"), FastAPI()
    inner.add_api_route("", lambda: None, dependencies=[needs(Scope.files_read)])
    outer.include_router(inner)
    app.include_router(outer)
    return app


def test_an_app_whose_routes_all_declare_a_scope_is_composed(app: FastAPI) -> None:
    check(app, DOCUMENT)


def test_a_router_may_declare_for_its_routes(app: FastAPI) -> None:
    router = APIRouter(prefix="/keys", dependencies=[needs(Scope.admin)])
    router.add_api_route("", lambda: None)
    app.include_router(router)
    check(app, DOCUMENT)


def test_a_route_without_a_scope_is_named(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1/open")
    router.add_api_route("/door", lambda: None, methods=["POST"])
    app.include_router(router)
    with pytest.raises(BadSetup, match=r"\['POST'\] /v1/open/door declares no scope"):
        check(app, DOCUMENT)


def test_what_is_no_api_route_is_refused_as_well(app: FastAPI) -> None:
    app.add_route("/metrics", lambda _request: PlainTextResponse(""))
    with pytest.raises(BadSetup, match="/metrics declares no scope"):
        check(app, DOCUMENT)
    check(app, DOCUMENT | {"/metrics"})
    app.mount("/static", PlainTextResponse(""))
    with pytest.raises(BadSetup, match="/static declares no scope"):
        check(app, DOCUMENT | {"/metrics"})


def test_two_scopes_or_a_public_path_with_one_are_a_mistake(app: FastAPI) -> None:
    with pytest.raises(BadSetup, match="/v1/files declares"):
        check(app, DOCUMENT | {"/v1/files"})
    app.add_api_route("/both", lambda: None, dependencies=[needs(Scope.admin), needs(Scope.files_read)])
    with pytest.raises(BadSetup, match="/both declares"):
        check(app, DOCUMENT)
