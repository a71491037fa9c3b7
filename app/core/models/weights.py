"""What the headers of a model's safetensors files say: how many weights it has, and whether the files are whole."""

import json
import math
from pathlib import Path
from typing import Any, Final

_MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit."""
_METADATA: Final = "__metadata__"


def count(directory: Path) -> int | None:
    """Of all files together; None where there is none, or one that cannot be read."""
    files = sorted(directory.glob("*.safetensors"))
    try:
        return sum(map(_count, files)) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damage(directory: Path) -> str | None:
    """What is wrong with the files, without a look at the weights themselves; None when they are whole."""
    try:
        json.loads((directory / "config.json").read_bytes())
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            return "it has no *.safetensors"
        for path in files:
            header, begin = _header(path)
            end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != _METADATA), default=0)
            if path.stat().st_size != begin + end:
                return f"{path.name} is cut off or has something behind its weights"
        for index in directory.glob("*.safetensors.index.json"):
            named = set(json.loads(index.read_bytes())["weight_map"].values())
            if absent := sorted(named - {path.name for path in files}):
                return f"{absent[0]} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({error})"
    return None


def _count(path: Path) -> int:
    header, _ = _header(path)
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != _METADATA)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the weights begin. Raises `ValueError` for another kind of file."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file")
        header: dict[str, Any] = json.loads(stream.read(size))
    return header, 8 + size
