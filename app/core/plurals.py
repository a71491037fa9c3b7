"""Counts in sentences."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 row`, `2,000 rows`, `2 processes`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def are(count: int) -> str:
    """Return the verb for a count: 1 row is, 2 rows are."""
    return "is" if count == 1 else "are"
