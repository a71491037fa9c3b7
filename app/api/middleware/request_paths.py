"""Maps the paths of `AzureOpenAI` clients to this API: `/openai/...` and `/openai/v1/...` are `/v1/...`."""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_AZURE: Final = re.compile(r"/openai(?:/v1)?(?:/deployments/[^/]+)?(?=/)")
"""Azure's inference paths name the deployment; the body names the model, too."""


class RequestPaths:
    """ASGI middleware. It must run before all that look at the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (azure := _AZURE.match(scope["path"])):
            path = f"/v1{scope['path'][azure.end() :]}"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
