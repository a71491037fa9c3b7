"""A blob has its name only once all of it is on disk: after a power cut it is whole or absent."""

import os
from pathlib import Path

import pytest

from app.core.storage.local import LocalBlobStore


def test_blob_is_synced_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        sync(descriptor)
        is_directory = Path(f"/proc/self/fd/{descriptor}").is_dir()
        done.append("directory synced" if is_directory else f"{os.fstat(descriptor).st_size} bytes synced")

    def linked(source: str, target: Path) -> None:
        done.append("named")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    LocalBlobStore(tmp_path).write("files/one", [b"half", b"half"])
    assert done == ["8 bytes synced", "named", "directory synced"]
