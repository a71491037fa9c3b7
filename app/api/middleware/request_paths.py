"""Maps the paths that clients and proxies send to those of this API."""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_AZURE: Final = re.compile(r"/openai(?:/v1)?(?:/deployments/[^/]+)?(?=/)")
"""`AzureOpenAI` requests `/openai/...`; Azure's current form is `/openai/v1/...`. Its inference paths name the
deployment, and the body names the model, too."""


class RequestPaths:
    """ASGI middleware: strips the `root_path` that a proxy keeps, and Azure's `/openai`.

    It must run before all that look at the path.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := self._own(scope["path"])) != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)

    def _own(self, path: str) -> str:
        if self._root and (path == self._root or path.startswith(f"{self._root}/")):
            path = path.removeprefix(self._root)
        azure = _AZURE.match(path)
        return f"/v1{path[azure.end() :]}" if azure else path
