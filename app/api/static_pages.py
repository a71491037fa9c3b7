"""The built dashboard under `/ui`, where any path but a file's is a view of the one page; the reference at `/docs`."""

import mimetypes
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response

DIST: Final = Path(__file__).parent.parent / "dashboard" / "dist"
ASSETS: Final = "assets/"
"""Files below it carry a hash of what they hold in their names."""
POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
NOT_BUILT: Final = "The dashboard is not built. In a checkout, run `make web`; wheels come with it built.\n"

router = APIRouter(include_in_schema=False)


@router.get("/")
def root() -> Response:
    """A browser that was given the server's address alone."""
    return RedirectResponse("/ui/")


@router.get("/docs")
def docs(request: Request) -> Response:
    """The API's reference, to read and to try."""
    return page(request, "docs/index.html")


@router.get("/ui")
@router.get("/ui/{path:path}")
def page(request: Request, path: str = "") -> Response:
    """A file of the dashboard, or its page."""
    found = _file(path)
    if found is None:
        return PlainTextResponse(NOT_BUILT, 503, HEADERS)
    is_hashed = path.startswith(ASSETS) and found.name == Path(path).name
    headers = HEADERS | {
        "cache-control": "public, max-age=31536000, immutable" if is_hashed else "no-cache",
        "vary": "accept-encoding",
    }
    kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
    packed = found.with_name(f"{found.name}.gz")
    if "gzip" in request.headers.get("accept-encoding", "") and packed.is_file():
        return FileResponse(packed, headers=headers | {"content-encoding": "gzip"}, media_type=kind)
    return FileResponse(found, headers=headers, media_type=kind)


def _file(path: str) -> Path | None:
    """What the path names, else the page; None without a build."""
    asked = (DIST / path).resolve()
    if path and asked.is_relative_to(DIST.resolve()) and asked.is_file():
        return asked
    index = DIST / "index.html"
    return index if index.is_file() else None
