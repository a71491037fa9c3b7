"""How durations are written on the command line."""

import re
from typing import Final

import typer

_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def seconds(text: str) -> float:
    """`90s`, `30m`, `1h30m`, `90d` or a bare number of seconds. Raises `BadParameter`."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        raise typer.BadParameter("give a duration like 90s, 30m, 1h30m or 90d")
    days, hours, minutes, rest = (float(part or 0) for part in found.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + rest
