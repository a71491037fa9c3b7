"""Reads the headers of a model's safetensors files: how many weights it has, and whether the files are complete."""

import json
import math
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.core.parse_errors import why_unreadable
from app.core.spec.experts import experts_of

_MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""
_METADATA: Final = "__metadata__"


class Damaged(ValueError):
    """A file is not in the format of safetensors; the text says why."""


def count(directory: Path) -> int | None:
    """Return the number of weights in all files; None if no file exists or one cannot be read."""
    files = sorted(directory.glob("*.safetensors"))
    try:
        return sum(map(_count, files)) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def active(directory: Path) -> int | None:
    """Return the number of weights that compute a token: all but experts that a router leaves out; None as above."""
    parameters = count(directory)
    if parameters is None:
        return None
    try:
        experts = experts_of(json.loads((directory / "config.json").read_bytes()))
        if experts is None:
            return parameters
        headers = [_header(path)[0] for path in directory.glob("*.safetensors")]
    except (OSError, ValueError, AttributeError):
        return parameters
    shapes = ((name, each["shape"]) for header in headers for name, each in header.items() if name != _METADATA)
    return experts.active(parameters, shapes)


def modules(directory: Path) -> frozenset[str]:
    """Return the paths of all modules with a weight matrix; empty if no file exists or one cannot be read."""
    try:
        headers = [_header(path)[0] for path in directory.glob("*.safetensors")]
        return frozenset(
            name.removesuffix(".weight")
            for header in headers
            for name, tensor in header.items()
            if name.endswith(".weight") and len(tensor["shape"]) > 1
        )
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def damage(directory: Path) -> str | None:
    """Return what is wrong with the files, without reading the weights; None if they are complete."""
    try:
        json.loads((directory / "config.json").read_bytes())
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            return "it has no *.safetensors files"
        for path in files:
            with path.open("rb") as stream:
                if not is_complete(stream):
                    return f"{path.name} is truncated or has extra bytes after its weights"
        for index in directory.glob("*.safetensors.index.json"):
            named = set(json.loads(index.read_bytes())["weight_map"].values())
            if absent := sorted(named - {path.name for path in files}):
                return f"{absent[0]} is missing"
    except Damaged as error:
        return str(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return why_unreadable(error)
    return None


def is_complete(stream: BinaryIO) -> bool:
    """Return whether a safetensors file ends with its last weight. Raises `Damaged` if it is none."""
    header, begin = _read_header(stream)
    end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != _METADATA), default=0)
    return stream.seek(0, 2) == begin + end


def _count(path: Path) -> int:
    header, _ = _header(path)
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != _METADATA)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as stream:
        return _read_header(stream)


def _read_header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the header and the offset of the weights. Raises `Damaged` if it is not a safetensors file."""
    size = int.from_bytes(stream.read(8), "little")
    if not 0 < size <= _MAX_HEADER_BYTES:
        raise Damaged("it is not a safetensors file")
    header: dict[str, Any] = json.loads(stream.read(size))
    return header, 8 + size
