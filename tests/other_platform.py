"""Runs `grouptune WORDS...` as on another platform: `python -m tests.other_platform PLATFORM WORDS...`.

Removes what only Linux has, and for `win32` what only POSIX has, then imports the command line.
"""

import os
import select
import signal
import sys
from importlib import import_module
from types import ModuleType
from typing import Final

LIBRARIES: Final = (
    *("alembic", "anyio", "celery", "cryptography", "httpcore", "httpx", "jiter", "jsonschema", "platformdirs"),
    *("psycopg", "pydantic_settings", "redis", "rich.live", "sqlalchemy.dialects.postgresql", "structlog"),
    *("multiprocessing.context", "packaging.requirements", "typer.main", "typer.rich_utils", "urllib.request", "yaml"),
)
"""They choose their implementation by platform when they are imported, so they are imported before the change."""
ONLY_LINUX: Final[dict[ModuleType, str]] = {
    os: "pidfd_open sched_getaffinity sched_setaffinity setresuid setresgid",
    signal: "pidfd_send_signal",
    select: "epoll",
}
ONLY_POSIX: Final[dict[ModuleType, str]] = {
    os: "chown fork geteuid getegid getgid getpgid getuid killpg nice pread pwrite setgroups setsid",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGUSR1 SIGUSR2 pthread_sigmask setitimer",
    select: "poll",
}
POSIX_MODULES: Final = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")


def become(platform: str) -> None:
    """Remove what `platform` lacks from this process."""
    for library in LIBRARIES:
        import_module(library)
    for removed in (ONLY_LINUX, ONLY_POSIX) if platform == "win32" else (ONLY_LINUX,):
        for module, names in removed.items():
            for name in names.split():
                delattr(module, name)
    if platform == "win32":
        sys.modules.update(dict.fromkeys(POSIX_MODULES))  # type: ignore[arg-type] # None: an import fails
    sys.platform = platform


if __name__ == "__main__":
    become(sys.argv[1])
    sys.argv[:] = ["grouptune", *sys.argv[2:]]
    import_module("app.cli").main()
