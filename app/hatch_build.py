"""Hatchling build hook: adds the built dashboard and documentation to wheels and source distributions.

A source distribution contains both, so installing from one needs neither Node nor Zensical.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds `app/dashboard/dist` and `app/site/dist` if they are missing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds both, except for editable installations, which serve the builds of `make web`."""
        if version == "editable":
            return
        app = Path(self.root) / "app"
        if not (app / "dashboard" / "dist" / "index.html").exists():
            _build_dashboard(app / "dashboard")
        if not (app / "site" / "dist" / "index.html").exists():
            _build_site(app / "site")


def _build_dashboard(source: Path) -> None:
    if shutil.which("npm") is None:
        raise RuntimeError(
            "The dashboard is not built, and npm is not on PATH to build it. Install Node 20 or newer, "
            "or run `make web` in the repository first."
        )
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=source, check=True)


def _build_site(source: Path) -> None:
    if find_spec("zensical") is None:
        raise RuntimeError(
            "The documentation is not built, and Zensical is not installed to build it. Run `make web` in the "
            "repository first, or install the extra `docs` and build without isolation."
        )
    subprocess.run([sys.executable, str(source / "build.py")], check=True)
