"""Hatchling build hook: adds the built dashboard to wheels and source distributions.

A source distribution contains the built dashboard, so installing from one does not need Node.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DashboardHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds `app/dashboard/dist` if it is missing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the dashboard, except for editable installations, which serve the build of `make web`."""
        source = Path(self.root) / "app" / "dashboard"
        if version == "editable" or (source / "dist" / "index.html").exists():
            return
        if shutil.which("npm") is None:
            raise RuntimeError(
                "The dashboard is not built, and npm is not on PATH to build it. Install Node 20 or newer, "
                "or run `make web` in the repository first."
            )
        for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
            subprocess.run(command, cwd=source, check=True)
