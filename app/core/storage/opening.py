"""Opens the configured blob store."""

from pathlib import Path
from urllib.parse import urlsplit

from app.core.errors import BadSetup
from app.core.extras import install_command
from app.core.storage.blobs import BlobStore
from app.core.storage.local import LocalBlobStore


def open_store(directory: Path, url: str | None, endpoint: str | None, region: str) -> BlobStore:
    """Return the store at `url` (`s3://bucket/prefix`), or in `directory` without a URL; does not connect.

    Raises `BadSetup` for an S3 store if the S3 package is not installed.
    """
    if url is None:
        return LocalBlobStore(directory)
    try:
        from app.core.storage.s3 import Bucket, S3BlobStore  # noqa: PLC0415 - an optional package
    except ModuleNotFoundError as error:
        raise BadSetup(f"GROUPTUNE_STORAGE_URL needs obstore: {install_command('s3')}") from error
    parts = urlsplit(url)
    return S3BlobStore(Bucket(parts.netloc, parts.path.strip("/") or None, region, endpoint))
