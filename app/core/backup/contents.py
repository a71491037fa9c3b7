"""What a backup holds: every table, and the blobs that rows name. Knows neither tar nor COPY."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.spec.frozen import Frozen

MANIFEST: Final = "manifest.json"
"""The first member."""
BLOBS: Final = "blobs/"
"""Before the blobs' keys."""
TABLES: Final = "tables/"
"""`tables/<name>/<number>`: rows as COPY writes them."""


class Manifest(Frozen):
    """What the other members are."""

    format: Literal[1] = 1
    version: str
    """Of the Grouptune that made the backup."""
    revision: str
    """Of its schema."""
    created_at: datetime
    """The moment that the backup shows, by the database's clock."""
    tables: dict[str, list[str]]
    """Columns by table, every table after those that it refers to."""


@dataclass(frozen=True)
class ReferencedBlob:
    """A blob that a row names."""

    place: str
    """Its key, of a tree its prefix."""
    is_tree: bool
    sha256: str | None
    """Of a file, as its row says."""


_NAMED: Final = text(
    """
    SELECT blob AS place, false AS is_tree, sha256 FROM files
    UNION ALL
    SELECT rows_blob, false, rows_sha256 FROM files WHERE rows_blob IS NOT NULL
    UNION ALL
    SELECT blob, true, NULL FROM (SELECT blob FROM models UNION SELECT blob FROM checkpoints) AS trees
    UNION ALL
    SELECT 'uploads/' || uploads.id || '/' || upload_parts.id, false, NULL
    FROM upload_parts JOIN uploads ON uploads.id = upload_id WHERE uploads.status = 'pending'
    ORDER BY place
    """
)
# A row that is deleted just now holds its lock until its blob is gone.
_STILL_NAMED: Final = (
    text("SELECT FROM files WHERE :place IN (blob, rows_blob) FOR KEY SHARE"),
    text("SELECT FROM models WHERE blob = :place FOR KEY SHARE"),
    text("SELECT FROM checkpoints WHERE blob = :place FOR KEY SHARE"),
    text(
        "SELECT FROM upload_parts JOIN uploads ON uploads.id = upload_id "
        "WHERE uploads.status = 'pending' AND 'uploads/' || uploads.id || '/' || upload_parts.id = :place"
    ),
)

_GONE_MODEL: Final = "model IN (SELECT id FROM models WHERE blob = ANY({gone}))"
LEFT_OUT: Final = {
    "files": "blob = ANY({gone}) OR coalesce(rows_blob = ANY({gone}), false)",
    "models": "blob = ANY({gone})",
    "checkpoints": "blob = ANY({gone})",
    "model_aliases": _GONE_MODEL,
    "checkpoint_permissions": _GONE_MODEL,
    "upload_parts": "'uploads/' || upload_id || '/' || id = ANY({gone})",
    "workers": "true",
}
"""Rows of a table that a backup leaves out: what they name was deleted while it was made, or is not there elsewhere."""

_HELD: Final = {
    "job": "jobs",
    "file": "files",
    "model": "models",
    "upload": "uploads",
    "webhook endpoint": "webhook_endpoints",
    "trust in a CI system": "oidc_trusts",
    "API key that somebody has made": "api_keys WHERE created_by IS NOT NULL",
}


def named(session: Session) -> list[ReferencedBlob]:
    """All blobs that the database names, by place."""
    return [ReferencedBlob(row.place, row.is_tree, row.sha256) for row in session.execute(_NAMED)]


def still_named(session: Session, place: str) -> bool:
    """Whether a row names the blob now."""
    return any(session.execute(query, {"place": place}).first() is not None for query in _STILL_NAMED)


def held(session: Session, tables: Collection[str]) -> list[str]:
    """What people would miss, in words; `tables` are those that there are."""
    counts = {
        word: session.scalar(text(f"SELECT count(*) FROM {source}"))  # noqa: S608 - constants
        for word, source in _HELD.items()
        if source.partition(" ")[0] in tables
    }
    return [f"{count:,} {word}{'s' * (count != 1)}" for word, count in counts.items() if count]
