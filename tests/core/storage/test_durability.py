"""A blob gets its name only after all of it is on disk: after a power cut it is whole or absent."""

import os
from pathlib import Path

import pytest

from app.core.storage.local import LocalBlobStore


def test_blob_is_synced_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        sync(descriptor)
        is_directory = Path(f"/proc/self/fd/{descriptor}").is_dir()
        calls.append("directory synced" if is_directory else f"{os.fstat(descriptor).st_size} bytes synced")

    def linked(source: str, target: Path) -> None:
        calls.append("named")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    LocalBlobStore(tmp_path).write("files/one", [b"half", b"half"])
    assert calls == ["8 bytes synced", "named", "directory synced"]
