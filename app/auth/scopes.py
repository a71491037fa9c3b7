"""Every route declares the scope that it needs; an app with a route that declares none is never composed."""

from collections.abc import Callable, Collection
from typing import Any, Final

from fastapi import FastAPI, params
from fastapi.routing import RouteContext, iter_route_contexts

from app.auth.bearer import Caller
from app.core.accounts.scopes import Scope
from app.core.errors import BadSetup, PermissionDenied

SCHEME: Final = "HTTPBearer"
"""Its name in the OpenAPI document."""


class _Needs:
    """Dependency: the caller's key has the scope. Raises `PermissionDenied`."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    # Async, though it waits for nothing: FastAPI sends plain functions through the thread pool.
    async def __call__(self, caller: Caller) -> None:
        if self.scope not in caller.scopes:
            raise PermissionDenied(
                f"This needs an API key with the scope '{self.scope}', which '{caller.key_id}' lacks; "
                "use another key, or ask an administrator for one (grouptune keys create)."
            )


def needs(scope: Scope) -> params.Depends:
    """For a route's `dependencies`: refuses callers without the scope, before its body is read."""
    return params.Depends(_Needs(scope))


def declared(context: RouteContext) -> list[Scope]:
    """The scopes that a route declares: one, if all is well."""
    needed = (one.dependency for one in getattr(context, "dependencies", ()))
    return [one.scope for one in needed if isinstance(one, _Needs)]


def check(app: FastAPI, public: Collection[str]) -> None:
    """Raises `BadSetup` unless every route declares exactly one scope or its path is `public`."""
    for context in iter_route_contexts(app.routes):
        scopes, is_public = declared(context), context.path in public
        if len(scopes) != (0 if is_public else 1):
            raise BadSetup(
                f"The route {sorted(context.methods or ())} {context.path} declares {scopes or 'no scope'}: give it "
                "`dependencies=[needs(Scope...)]`, once, or make its path public."
            )


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The app's `openapi`, with each operation's scope in its `security`."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            paths = plain()["paths"]
            for context in iter_route_contexts(app.routes):
                for scope in declared(context):
                    for method in context.methods or ():
                        paths[context.path_format][method.lower()]["security"] = [{SCHEME: [scope]}]
        return plain()

    return openapi
