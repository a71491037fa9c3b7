"""A response that streams a blob."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class BlobResponse(StreamingResponse):
    """Closes the blob, or the generator that opens several, at its end, also if the client hangs up before."""

    def __init__(
        self,
        blob: AbstractContextManager[object],
        chunks: Iterable[bytes],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(chunks, status, headers, media_type)
        self._blob = blob

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._blob:
            await super().__call__(scope, receive, send)
