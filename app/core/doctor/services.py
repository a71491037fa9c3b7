"""Checks of the broker, the blob store and the inference engines."""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from app.core import broker
from app.core.doctor.finding import DoctorFinding, failed, ok, warning
from app.core.errors import GrouptuneError
from app.core.inference.engine_answers import ListedModel
from app.core.inference.engine_client import EngineClient
from app.core.plurals import plural
from app.core.storage.blobs import BlobMissing, BlobStore, StorageUnavailable

PROBE_BYTES: Final = 1 << 16
STORE_SKEW_SECONDS: Final = 600.0
"""Well below the orphan grace, which depends on the store's clock and is at least an hour."""


def check_broker(url: str) -> DoctorFinding:
    """Check that the broker responds."""
    try:
        broker.check(url)
    except broker.BrokerUnavailable as error:
        fix = "start Valkey or Redis, or correct REDIS_URL; jobs wait until then, and none is lost"
        return failed("broker", error.message, fix)
    return ok("broker", "it responds")


def check_store(store: BlobStore, place: str) -> DoctorFinding:
    """Write, list, read and delete a probe blob. If a crash leaves it behind, it is collected as an orphan."""
    key, content = f"uploads/doctor-{secrets.token_hex(8)}/probe", secrets.token_bytes(PROBE_BYTES)
    fix = "correct GROUPTUNE_STORAGE_URL, the AWS_ variables or the rights (docs/storage.md), or free space"
    try:
        store.write(key, [content])
        try:
            written_at = next(listed.written_at for listed in store.scan(key.rpartition("/")[0]))
            with store.open(key) as blob:
                is_same = blob.read() == content
        finally:
            store.delete_tree(key.rpartition("/")[0])
        is_gone = not store.exists(key)
    except (OSError, StorageUnavailable, BlobMissing, StopIteration) as error:
        return failed("storage", f"{place} cannot be used: {error or 'a written blob is not listed'}", fix)
    if not is_same or not is_gone:
        return failed(
            "storage", f"{place} does not {'return what was written' if not is_same else 'delete blobs'}", fix
        )
    skew = abs((datetime.now(UTC) - written_at).total_seconds())
    if skew > STORE_SKEW_SECONDS:
        return warning(
            "storage",
            f"the clock of {place} differs from this machine's by {skew:.0f} s, so orphans may be removed too early",
            "synchronise both clocks (NTP)",
        )
    return ok("storage", f"{place}: wrote, listed, read and deleted a probe")


def check_engines(urls: Sequence[str], api_key: str | None) -> Iterator[DoctorFinding]:
    """Check that each inference engine responds; one that is down is a warning, because only inference needs it."""
    if not urls:
        yield ok("engine", "no GROUPTUNE_SERVE_URL: the only engine is the one that `grouptune up` starts")
    for url in urls:
        fix = "start it, or correct GROUPTUNE_SERVE_URL and GROUPTUNE_SERVE_API_KEY (docs/inference.md)"
        try:
            models = asyncio.run(_models_of(url, api_key))
        except GrouptuneError as error:
            yield warning("engine", f"{url}: {error.message}", fix)
        else:
            bases = [model.id for model in models if model.parent is None]
            yield ok("engine", f"{url} serves {', '.join(bases)} and {plural(len(models) - len(bases), 'adapter')}")


async def _models_of(url: str, api_key: str | None) -> list[ListedModel]:
    client = EngineClient(url, api_key)
    try:
        return await client.models()
    finally:
        await client.close()
