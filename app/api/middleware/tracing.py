"""Records a span for each API request, as part of the client's trace if it sends a `traceparent`."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware.http_metrics import PREFIX, template
from app.core.tracing import Tracer


class Tracing:
    """ASGI middleware that records the spans."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        parent = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1") or None
        with self._tracer.span(scope["method"], parent=parent, kind="server", url__path=scope["path"]) as span:
            span.set(http__request__method=scope["method"], grouptune__request=scope["state"]["request_id"])

            async def observing(message: Message) -> None:
                # The span ends when the response starts: a stream's end would measure how long the client stayed.
                if message["type"] == "http.response.start":
                    route = template(scope)
                    span.rename(f"{scope['method']} {route}")
                    span.set(http__route=route, http__response__status_code=message["status"])
                    if message["status"] >= 500:
                        span.fail(f"status {message['status']}")
                    span.end()
                await send(message)

            await self._app(scope, receive, observing)
