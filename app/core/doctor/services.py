"""Checks of the broker and the blob store."""

import secrets
from datetime import UTC, datetime
from typing import Final

from app.core import broker
from app.core.doctor.finding import DoctorFinding, failed, ok, warning
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
