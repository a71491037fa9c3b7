"""Reads the headers of a model's safetensors files: its weights, their size in memory, and missing files."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.core.parse_errors import why_unreadable
from app.core.spec.experts import experts_of

_MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""
_METADATA: Final = "__metadata__"
_BLOCKS: Final = "_blocks"
_SCALES: Final = ("_scales", "_scale_inv")
"""Ends of the names of a quantised weight's scales, in MXFP4 and in FP8."""
_DEQUANTISED_BYTES: Final = 2
"""Bytes of a weight that is stored in MXFP4 or FP8 and loaded in bf16."""


class Damaged(ValueError):
    """A file is not in the format of safetensors; the text says why."""


@dataclass(frozen=True)
class Sizes:
    """The weights of a model by use."""

    parameters: int
    active: int
    """Weights that compute a token: all but the experts that a router leaves out."""
    experts: int
    """Weights of routed experts."""
    bytes: int
    """Memory of all weights as a job loads them: MXFP4 and FP8 are dequantised to bf16."""


def sizes(directory: Path) -> Sizes | None:
    """Return the sizes of the weights in all files; None if no file exists or one cannot be read."""
    try:
        tensors = [each for path in directory.glob("*.safetensors") for each in _tensors(_header(path)[0])]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    parameters = sum(math.prod(shape) for _, shape, _ in tensors)
    if not parameters:
        return None
    loaded = sum(size for _, _, size in tensors)
    try:
        experts = experts_of(json.loads((directory / "config.json").read_bytes()))
    except (OSError, ValueError, AttributeError):
        experts = None
    if experts is None:
        return Sizes(parameters, parameters, 0, loaded)
    shapes = [(name, shape) for name, shape, _ in tensors]
    owned = sum(math.prod(shape) for name, shape in shapes if experts.owns(name, shape))
    return Sizes(parameters, experts.active(parameters, shapes), owned, loaded)


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


def _tensors(header: dict[str, Any]) -> Iterator[tuple[str, list[int], int]]:
    """Yield name, shape and bytes of each weight as it is loaded, so that scales of quantised weights do not count."""
    for name, tensor in header.items():
        if name == _METADATA or _is_scale(name, header):
            continue
        shape, (begin, end) = tensor["shape"], tensor["data_offsets"]
        if name.endswith(_BLOCKS) and name.removesuffix(_BLOCKS) + _SCALES[0] in header:
            shape = [*shape[:-1], 2 * shape[-1]]  # a byte holds two weights
        elif not tensor["dtype"].startswith("F8_"):
            yield name, shape, end - begin
            continue
        yield name, shape, _DEQUANTISED_BYTES * math.prod(shape)


def _is_scale(name: str, header: dict[str, Any]) -> bool:
    blocks, inverse = _SCALES
    return (name.endswith(blocks) and name.removesuffix(blocks) + _BLOCKS in header) or (
        name.endswith(inverse) and name.removesuffix(inverse) in header
    )


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
