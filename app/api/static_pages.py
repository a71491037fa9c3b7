"""Serves the built dashboard under `/ui`, the documentation under `/docs` and the API reference at `/docs/api/`.

Every path below `/ui` that is not a file is a view of the single-page dashboard.
"""

import mimetypes
from contextlib import suppress
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response

APP: Final = Path(__file__).parents[1]
DIST: Final = APP / "dashboard" / "dist"
SITE: Final = APP / "site" / "dist"
ASSETS: Final = "assets/"
"""Files of the dashboard below this path have a hash of their content in their name."""
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
DOCS_NOT_BUILT: Final = (
    "The documentation is not built. In a checkout, run `make web`, or read the pages in docs/; wheels include it. "
    "The API reference is at /docs/api/.\n"
)
NO_PAGE: Final = "The documentation has no such page. It starts at /docs/.\n"

router = APIRouter(include_in_schema=False)


@router.get("/")
def root() -> Response:
    """Redirect a browser from the server's bare address to the dashboard."""
    return RedirectResponse("ui/")  # relative: a proxy may serve this server below a path prefix


@router.get("/docs")
def docs() -> Response:
    """Redirect to the start of the documentation, whose links are relative."""
    return RedirectResponse("docs/")


@router.get("/docs/api")
def api() -> Response:
    """Redirect to the API reference, whose links are relative."""
    return RedirectResponse("api/")


@router.get("/docs/api/")
def api_reference(request: Request) -> Response:
    """Serve the API reference, in which requests can be tried out."""
    return page(request, "docs/index.html")


@router.get("/docs/{path:path}")
def documentation(request: Request, path: str = "") -> Response:
    """Serve a page or another file of the documentation."""
    file = _file(SITE, f"{path}index.html" if path.endswith("/") or not path else path)
    if file is None:
        return PlainTextResponse(*((NO_PAGE, 404) if SITE.is_dir() else (DOCS_NOT_BUILT, 503)), HEADERS)
    return _content(request, file, "no-cache")


@router.get("/ui")
@router.get("/ui/{path:path}")
def page(request: Request, path: str = "") -> Response:
    """Serve a file of the dashboard, or its page."""
    file = _file(DIST, path) or _file(DIST, "index.html")
    if file is None:
        return PlainTextResponse(NOT_BUILT, 503, HEADERS)
    if file == DIST / "index.html":
        text = file.read_text(encoding="utf-8").replace('"./', f'"{_way_to_ui(request.url.path)}')
        return HTMLResponse(text, headers=HEADERS | {"cache-control": "no-cache"})
    is_hashed = path.startswith(ASSETS) and file.name == Path(path).name
    return _content(request, file, "public, max-age=31536000, immutable" if is_hashed else "no-cache")


def _content(request: Request, file: Path, cache: str) -> Response:
    """Return the file, in its compressed form if there is one and the client accepts it."""
    headers = HEADERS | {"cache-control": cache, "vary": "accept-encoding"}
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    compressed = file.with_name(f"{file.name}.gz")
    if "gzip" in request.headers.get("accept-encoding", "") and compressed.is_file():
        return FileResponse(compressed, headers=headers | {"content-encoding": "gzip"}, media_type=kind)
    return FileResponse(file, headers=headers, media_type=kind)


def _way_to_ui(path: str) -> str:
    """Return the relative way from a page's path to `/ui/`: right below any path prefix, which only the proxy knows."""
    depth = path.count("/") - 2
    return "ui/" if depth < 0 else "../" * depth or "./"


def _file(directory: Path, path: str) -> Path | None:
    """Return the file that the path names inside the directory; None if there is none."""
    with suppress(OSError, ValueError):  # not a possible file name: too long, or with a NUL
        requested = (directory / path).resolve()
        if requested.is_relative_to(directory.resolve()) and requested.is_file():
            return requested
    return None
