"""Options and arguments that several commands share."""

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.ui.hints import remember_state_dir

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Use the server that was started from this state directory.",
        show_default=False,
        file_okay=False,
        callback=remember_state_dir,
    ),
]
"""For commands that talk to a running server."""

InstallationDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Directory that holds the installation's data.",
        file_okay=False,
        callback=remember_state_dir,
    ),
]
"""For commands that start or open an installation on this machine."""

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int | None,
    typer.Option(
        help="Port to listen on. Default: the last one; at the first start 8000 or the next free one.",
        min=1,
        max=65535,
    ),
]
_JOB: Final = "Job id, its start or end, or @latest."
JobId = Annotated[str, typer.Argument(metavar="JOB", help=_JOB)]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB...", help=_JOB)]

_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def duration_seconds(text: str) -> float:
    """Parse `90s`, `30m`, `1h30m`, `90d` or a bare number of seconds. Raises `BadParameter`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise typer.BadParameter("write a duration such as 90s, 30m, 1h30m or 90d")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds
