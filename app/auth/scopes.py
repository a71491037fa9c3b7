"""Scopes: every route declares the scope that it needs, or the app refuses to start."""

from collections.abc import Callable, Collection
from typing import Any, Final

from fastapi import FastAPI, params
from fastapi.routing import RouteContext, iter_route_contexts

from app.auth.bearer import Caller
from app.core.accounts.scopes import Scope
from app.core.errors import BadSetup, PermissionDenied

SCHEME: Final = "HTTPBearer"
"""Name of the security scheme in the OpenAPI document."""


class _Needs:
    """A dependency that requires the caller's key to have a scope. Raises `PermissionDenied`."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    # Async although it awaits nothing: FastAPI runs plain functions in the thread pool.
    async def __call__(self, caller: Caller) -> None:
        if self.scope not in caller.scopes:
            raise PermissionDenied(
                f"This request needs an API key with the scope '{self.scope}', which '{caller.key_id}' lacks. "
                "Use another key, or get one from an administrator (grouptune keys create)."
            )


def needs(scope: Scope) -> params.Depends:
    """Return an entry for a route's `dependencies` that rejects callers without the scope, before the body is read."""
    return params.Depends(_Needs(scope))


def declared(context: RouteContext) -> list[Scope]:
    """Return the scopes that a route declares; a correct route declares one."""
    dependencies = (item.dependency for item in getattr(context, "dependencies", ()))
    return [dependency.scope for dependency in dependencies if isinstance(dependency, _Needs)]


def check(app: FastAPI, public: Collection[str]) -> None:
    """Raises `BadSetup` unless every route declares exactly one scope or its path is `public`."""
    for context in iter_route_contexts(app.routes):
        scopes, is_public = declared(context), context.path in public
        if len(scopes) != (0 if is_public else 1):
            raise BadSetup(
                f"The route {sorted(context.methods or ())} {context.path} declares {scopes or 'no scope'}. Give it "
                "exactly one `dependencies=[needs(Scope...)]`, or add its path to PUBLIC."
            )


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return the app's `openapi` function, extended by each operation's scope in `security`."""
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
