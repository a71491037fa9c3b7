"""Formats values for people: sizes, ages, dates, durations and numbers."""

import time
from datetime import UTC, datetime


def human_bytes(count: float) -> str:
    """Format a size in powers of 1000: `1.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def age(unix_seconds: int) -> str:
    """Format the time since a moment in its largest unit: `12s`, `5m`, `3h`, `40d`."""
    seconds = max(0, int(time.time()) - unix_seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def moment(unix_seconds: int) -> str:
    """Format a moment as local date and time to the minute."""
    return _local(unix_seconds).strftime("%Y-%m-%d %H:%M")


def time_of_day(unix_seconds: int) -> str:
    """Format a moment as local time to the second: `14:03:59`."""
    return _local(unix_seconds).strftime("%H:%M:%S")


def clock(seconds: float) -> str:
    """Format a duration as `4:07` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | None, *, missing: str = "-") -> str:
    """Format a number with four significant digits."""
    return missing if value is None else f"{value:.4g}"


def one_line(text: str) -> str:
    """Collapse all white space, line breaks included, to single spaces."""
    return " ".join(text.split())


def _local(unix_seconds: int) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC).astimezone()
