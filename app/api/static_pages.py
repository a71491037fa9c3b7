"""Serves the built dashboard under `/ui` and the API reference at `/docs`.

Every path below `/ui` that is not a file is a view of the single-page dashboard.
"""

import mimetypes
from contextlib import suppress
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response

DIST: Final = Path(__file__).parent.parent / "dashboard" / "dist"
ASSETS: Final = "assets/"
"""Files below this path have a hash of their content in their name."""
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
NOT_BUILT: Final = "The dashboard is not built. In a checkout, run `make web`; wheels include it.\n"

router = APIRouter(include_in_schema=False)


@router.get("/")
def root() -> Response:
    """Redirect a browser from the server's bare address to the dashboard."""
    return RedirectResponse("ui/")  # relative: a proxy may serve this server below a path prefix


@router.get("/docs")
def docs(request: Request) -> Response:
    """Serve the API reference, in which requests can be tried out."""
    return page(request, "docs/index.html")


@router.get("/ui")
@router.get("/ui/{path:path}")
def page(request: Request, path: str = "") -> Response:
    """Serve a file of the dashboard, or its page."""
    file = _file(path)
    if file is None:
        return PlainTextResponse(NOT_BUILT, 503, HEADERS)
    if file == DIST / "index.html":
        text = file.read_text(encoding="utf-8").replace('"./', f'"{_way_to_ui(request.url.path)}')
        return HTMLResponse(text, headers=HEADERS | {"cache-control": "no-cache"})
    is_hashed = path.startswith(ASSETS) and file.name == Path(path).name
    headers = HEADERS | {
        "cache-control": "public, max-age=31536000, immutable" if is_hashed else "no-cache",
        "vary": "accept-encoding",
    }
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    compressed = file.with_name(f"{file.name}.gz")
    if "gzip" in request.headers.get("accept-encoding", "") and compressed.is_file():
        return FileResponse(compressed, headers=headers | {"content-encoding": "gzip"}, media_type=kind)
    return FileResponse(file, headers=headers, media_type=kind)


def _way_to_ui(path: str) -> str:
    """Return the relative way from a page's path to `/ui/`: right below any path prefix, which only the proxy knows."""
    depth = path.count("/") - 2
    return "ui/" if depth < 0 else "../" * depth or "./"


def _file(path: str) -> Path | None:
    """Return the file that the path names, else the page; None if the dashboard is not built."""
    with suppress(OSError, ValueError):  # not a possible file name: too long, or with a NUL
        requested = (DIST / path).resolve()
        if path and requested.is_relative_to(DIST.resolve()) and requested.is_file():
            return requested
    index = DIST / "index.html"
    return index if index.is_file() else None
