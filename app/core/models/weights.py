"""How many weights a model has, read from the headers of its safetensors files."""

import json
import math
from pathlib import Path
from typing import Any, Final

_MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit."""


def count(directory: Path) -> int | None:
    """Of all files together; None where there is none, or one that cannot be read."""
    files = sorted(directory.glob("*.safetensors"))
    try:
        return sum(map(_count, files)) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _count(path: Path) -> int:
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file")
        header: dict[str, Any] = json.loads(stream.read(size))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
