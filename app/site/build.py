"""Builds the documentation site: `docs/` and the pages next to it, rendered by Zensical into `app/site/dist`.

The server's content security policy forbids inline scripts, so the theme's are moved into files. Nothing is loaded from
other hosts. Run it as `make web`; the build hook of releases runs it too.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

SITE: Final = Path(__file__).parent
REPOSITORY: Final = SITE.parents[1]
DIST: Final = SITE / "dist"
OUTSIDE: Final = {
    "bench/results/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages outside `docs/` -> their names on the site."""
HISTORY: Final = ("changelog.md",)
"""Pages that the search leaves out: the history of a feature would come before its description."""
NOT_SEARCHED: Final = "---\nsearch:\n  exclude: true\n---\n\n"

CODE_OR_LINK: Final = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`(?!\]))|\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)]*)?\)",
    re.DOTALL | re.MULTILINE,
)
INLINE_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
EXPANDED: Final = re.compile(r'(<nav [^>]*?) aria-expanded="\w+"')
"""The theme sets a state that the role `navigation` does not have."""
COMPRESSED: Final = {".html", ".css", ".js", ".json", ".svg"}


def site_names() -> dict[str, str]:
    """Return the name on the site of every page and picture, by its path in the repository."""
    docs = [path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*") if path.is_file()]
    return {**{path: path.removeprefix("docs/") for path in docs}, **OUTSIDE}


def rewrite_links(text: str, path: str, names: dict[str, str]) -> str:
    """Point the links of the page at `path` to names on the site. A link to any other file becomes plain text."""
    directory = PurePosixPath(names[path]).parent

    def rewrite(match: re.Match[str]) -> str:
        target = match["target"]
        if match["code"] or "://" in target:
            return match[0]
        name = names.get(os.path.normpath(PurePosixPath(path).parent / target))
        if name is None:
            return match["text"]
        return f"[{match['text']}]({os.path.relpath(name, directory)}{match['anchor'] or ''})"

    return CODE_OR_LINK.sub(rewrite, text)


def stage(pages: Path) -> None:
    """Copy all pages and assets into the directory `pages`."""
    names = site_names()
    for path, name in names.items():
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            text = rewrite_links((REPOSITORY / path).read_text(encoding="utf-8"), path, names)
            (pages / name).write_text((NOT_SEARCHED if name in HISTORY else "") + text, encoding="utf-8")
        else:
            shutil.copy(REPOSITORY / path, pages / name)
    (pages / "assets").mkdir()
    for asset in (SITE / "site.css", SITE / "theme.js", SITE.parent / "dashboard" / "public" / "icon.svg"):
        shutil.copy(asset, pages / "assets")


def move_scripts(page: Path, site: Path) -> None:
    """Replace the inline scripts of a page with files, which are named by their content."""
    root = os.path.relpath(site, page.parent)

    def move(match: re.Match[str]) -> str:
        name = f"assets/javascripts/{hashlib.sha256(match[1].encode()).hexdigest()[:12]}.js"
        (site / name).write_text(match[1], encoding="utf-8")
        return f'<script src="{root}/{name}"></script>'

    html = INLINE_SCRIPT.sub(move, page.read_text(encoding="utf-8"))
    html = html.replace("<head>", f'<head><script src="{root}/assets/theme.js"></script>', 1)
    page.write_text(EXPANDED.sub(r"\1", html), encoding="utf-8")


def build() -> None:
    """Build the site and replace the previous one."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        shutil.copy(SITE / "zensical.toml", directory)
        stage(directory / "pages")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
        if done.returncode:
            raise SystemExit(f"Zensical failed:\n{done.stdout}{done.stderr}")
        site = directory / "site"
        (site / "404.html").unlink()  # its links are absolute, and a proxy may serve the site below a path prefix
        for page in site.rglob("*.html"):
            move_scripts(page, site)
        for path in [path for path in site.rglob("*") if path.suffix in COMPRESSED]:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.move(site, DIST)


if __name__ == "__main__":
    build()
