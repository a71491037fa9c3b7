"""Facts about an adapter that its stored files state: size, digest and rank."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from app.core.errors import InvalidRequest
from app.core.models import weights
from app.core.models.adapters import ADAPTER_FILES, CARD
from app.core.models.tables import TrainedModel
from app.core.parse_errors import why_unreadable
from app.core.storage.blobs import MAX_SUMS_BYTES, SUMS, BlobMissing, BlobStore, StorageUnavailable

log = structlog.get_logger(__name__)

CONFIG, WEIGHTS = ADAPTER_FILES
MAX_CONFIG_BYTES: Final = 1_000_000


T = TypeVar("T")


@dataclass(frozen=True)
class StoredAdapter:
    """The files of an adapter in PEFT's format."""

    bytes: int
    """Size of the files that a download contains."""
    sha256: str | None
    """Of the weights (adapter_model.safetensors), hexadecimal."""
    rank: int | None
    """Rank of the low-rank matrices, which engines must allow."""


def describe(store: BlobStore, adapter: TrainedModel) -> StoredAdapter | None:
    """Read the facts from the blob store; None without an adapter or while its files cannot be read."""
    if not adapter.has_adapter:
        return None
    try:
        digests = _digests(store, adapter.blob)
        sizes = [_size(store, key) for key in downloaded(store, adapter)]
        rank = _rank(store, f"{adapter.blob}/{CONFIG}")
    except (BlobMissing, StorageUnavailable, OSError) as error:
        log.warning("adapter.files_not_read", model=adapter.id, error=str(error))
        return None
    return StoredAdapter(sum(sizes), digests.get(WEIGHTS), rank)


def read_config(store: BlobStore, name: str, blob: str, parse: Callable[[Any], T]) -> T:
    """Return what `parse` makes of the JSON in the config of the adapter called `name`.

    Reads two headers; the trainer verifies the digests. Raises `InvalidRequest` for missing or truncated files.
    """
    try:
        with store.open(f"{blob}/{WEIGHTS}") as stream:
            if not weights.is_complete(stream):
                raise _damaged(name, f"{WEIGHTS} is truncated or has extra bytes")
        with store.open(f"{blob}/{CONFIG}") as stream:
            return parse(json.loads(stream.read(MAX_CONFIG_BYTES)))
    except (BlobMissing, weights.Damaged) as error:
        raise _damaged(name, str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(name, why_unreadable(error)) from error


def _damaged(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The stored files of the model '{name}' are damaged: {reason}. Start from another model.", param="model"
    )


def downloaded(store: BlobStore, adapter: TrainedModel) -> Iterator[str]:
    """Yield the keys of the files that a download of the adapter contains, sorted.

    Checkpoints also hold the optimizer's state, which is several times as large and of no use elsewhere.
    """
    for key in store.list(adapter.blob):
        if adapter.step is None or key.removeprefix(f"{adapter.blob}/") in (*ADAPTER_FILES, CARD):
            yield key


def _digests(store: BlobStore, blob: str) -> dict[str, str]:
    with store.open(f"{blob}/{SUMS}") as stream:
        lines = stream.read(MAX_SUMS_BYTES).decode().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _size(store: BlobStore, key: str) -> int:
    with store.open(key) as stream:
        return stream.seek(0, 2)


def _rank(store: BlobStore, key: str) -> int | None:
    with store.open(key) as stream:
        try:
            rank = json.loads(stream.read(MAX_CONFIG_BYTES)).get("r")
        except (ValueError, AttributeError):
            return None
    return rank if isinstance(rank, int) else None
