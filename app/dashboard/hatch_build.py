"""Puts the built dashboard into wheels and source distributions; hatchling runs it. A source distribution has it built
already, so that installing from one needs no Node."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DashboardHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds `app/dashboard/dist` where it is missing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable installation serves what `make web` builds, and needs nothing here."""
        source = Path(self.root) / "app" / "dashboard"
        if version == "editable" or (source / "dist" / "index.html").exists():
            return
        if shutil.which("npm") is None:
            raise RuntimeError(
                "The dashboard is not built, and there is no npm to build it. Install Node 20 or newer, "
                "or run `make web` in the repository first."
            )
        for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
            subprocess.run(command, cwd=source, check=True)
