"""The contents of a backup: every table, and the blobs that rows refer to."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.plurals import plural
from app.core.spec.frozen import Frozen

MANIFEST: Final = "manifest.json"
"""Name of the first member."""
BLOBS: Final = "blobs/"
"""Prefix of the members that are blobs; their keys follow."""
TABLES: Final = "tables/"
"""`tables/<name>/<number>`: rows in the format of COPY."""


class Manifest(Frozen):
    """Describes the other members."""

    format: Literal[1] = 1
    version: str
    """Version of Grouptune that made the backup."""
    revision: str
    """Revision of its schema."""
    created_at: datetime
    """Time of the snapshot, by the database's clock."""
    tables: dict[str, list[str]]
    """Columns by table. Every table comes after those that it refers to."""


@dataclass(frozen=True)
class ReferencedBlob:
    """A blob that a row refers to."""

    place: str
    """Key of the blob, or prefix of the tree."""
    is_tree: bool
    sha256: str | None
    """Digest in the row of a file or an export."""


_NAMED: Final = text(
    """
    SELECT blob AS place, false AS is_tree, sha256 FROM files
    UNION ALL
    SELECT rows_blob, false, rows_sha256 FROM files WHERE rows_blob IS NOT NULL
    UNION ALL
    SELECT blob, true, NULL FROM (SELECT blob FROM models UNION SELECT blob FROM checkpoints) AS trees
    UNION ALL
    SELECT blob, false, sha256 FROM exports WHERE blob IS NOT NULL
    UNION ALL
    SELECT 'uploads/' || uploads.id || '/' || upload_parts.id, false, NULL
    FROM upload_parts JOIN uploads ON uploads.id = upload_id WHERE uploads.status = 'pending'
    ORDER BY place
    """
)
# FOR KEY SHARE waits for a delete in progress, which holds the row's lock until the blob is removed.
_STILL_NAMED: Final = (
    text("SELECT FROM files WHERE :place IN (blob, rows_blob) FOR KEY SHARE"),
    text("SELECT FROM models WHERE blob = :place FOR KEY SHARE"),
    text("SELECT FROM checkpoints WHERE blob = :place FOR KEY SHARE"),
    text("SELECT FROM exports WHERE blob = :place FOR KEY SHARE"),
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
    "exports": f"{_GONE_MODEL} OR coalesce(blob = ANY({{gone}}), false)",
    "upload_parts": "'uploads/' || upload_id || '/' || id = ANY({gone})",
    "workers": "true",
    "model_pulls": "true",
}
"""Rows that a backup omits: their blobs were deleted during the backup, or they describe this machine's workers and
downloads of base models."""

_HELD: Final = {
    "job": "jobs",
    "file": "files",
    "model": "models",
    "export": "exports",
    "eval": "evals",
    "upload": "uploads",
    "webhook endpoint": "webhook_endpoints",
    "trust in a CI system": "oidc_trusts",
    "API key that a user created": "api_keys WHERE created_by IS NOT NULL",
}


def named(session: Session) -> list[ReferencedBlob]:
    """Return all blobs that the database refers to, ordered by key."""
    return [ReferencedBlob(row.place, row.is_tree, row.sha256) for row in session.execute(_NAMED)]


def still_named(session: Session, place: str) -> bool:
    """Return whether a row refers to the blob now."""
    return any(session.execute(query, {"place": place}).first() is not None for query in _STILL_NAMED)


def held(session: Session, tables: Collection[str]) -> list[str]:
    """Describe the data that would be lost with this database; `tables` are the existing tables."""
    counts = {
        word: session.scalar(text(f"SELECT count(*) FROM {source}"))  # noqa: S608 - constants
        for word, source in _HELD.items()
        if source.partition(" ")[0] in tables
    }
    return [plural(count, word) for word, count in counts.items() if count]
