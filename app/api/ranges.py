"""Responses with a stored blob, or with the range of it that the request asks for, so that downloads can resume."""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from starlette.requests import Request
from starlette.responses import Response

from app.api.blob_response import BlobResponse
from app.core.storage.blobs import BlobStore

CHUNK_BYTES: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def blob_response(request: Request, store: BlobStore, blob: str, size: int, sha256: str, filename: str) -> Response:
    """Return the blob, or the single range in the header `range` (206; 416 if it lies behind the end).

    Several ranges, and a range of another version (`if-range`), get the whole blob. Raises `BlobMissing`.
    """
    etag = f'"{sha256}"'
    headers = {
        "accept-ranges": "bytes",
        "etag": etag,
        "content-disposition": f'attachment; filename="{filename}"',
    }
    start, end, status = 0, size, 200
    requested = _RANGE.fullmatch(request.headers.get("range", ""))
    if requested is not None and any(requested.groups()) and request.headers.get("if-range", etag) == etag:
        start, end = _bounds(requested[1], requested[2], size)
        if start >= end:
            return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
        headers["content-range"], status = f"bytes {start}-{end - 1}/{size}", 206
    headers["content-length"] = str(end - start)
    stream = store.open(blob)
    return BlobResponse(stream, _chunks(stream, start, end), status, headers, "application/x-tar")


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Return start and end of `first-last`; without `first`, the range is the last `last` bytes."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


def _chunks(stream: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    stream.seek(start)
    while start < end and (chunk := stream.read(min(CHUNK_BYTES, end - start))):
        start += len(chunk)
        yield chunk
