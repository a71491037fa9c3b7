"""Blobs appear whole or not at all, are never overwritten, and stay inside their directory."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from app.core.storage.local import SUMS, BlobCorrupt, BlobMissing, LocalBlobStore


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "a.txt").write_text("a")
    (tmp_path / "tree" / "sub" / "b.txt").write_text("b")
    return tmp_path / "tree"


def test_what_is_written_can_be_read(store: LocalBlobStore) -> None:
    stored = store.write("files/one", [b"ab", b"c"])
    assert (stored.bytes, stored.sha256) == (3, sha256(b"abc").hexdigest())
    with store.open("files/one") as blob:
        assert blob.read() == b"abc"
    assert store.exists("files/one")
    assert store.list("files") == ["files/one"]
    store.delete("files/one")
    store.delete("files/one")
    assert not store.exists("files/one")
    with pytest.raises(BlobMissing):
        store.open("files/one")


def test_a_blob_is_never_overwritten(store: LocalBlobStore) -> None:
    store.write("one", [b"first"])
    with pytest.raises(FileExistsError):
        store.write("one", [b"second"])
    assert store.path("one").read_bytes() == b"first"


def test_an_upload_that_breaks_leaves_no_trace(store: LocalBlobStore, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.write("one", chunks())
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\0b", ".incoming/x", "a\\b"]
)
def test_keys_cannot_leave_the_store(store: LocalBlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        store.path(key)


def test_a_tree_comes_back_as_it_was(store: LocalBlobStore, tree: Path, tmp_path: Path) -> None:
    assert sorted(store.put_tree("jobs/1/adapter", tree)) == ["a.txt", "sub/b.txt"]
    store.fetch_tree("jobs/1/adapter", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "b.txt").read_text() == "b"
    assert store.list("jobs/1/adapter")[0] == f"jobs/1/adapter/{SUMS}"
    store.delete_tree("jobs/1/adapter")
    assert store.list("jobs/1/adapter") == []


def test_a_changed_byte_is_found(store: LocalBlobStore, tree: Path, tmp_path: Path) -> None:
    store.put_tree("t", tree)
    store.path("t/sub/b.txt").write_text("c")
    with pytest.raises(BlobCorrupt, match=r"sub/b\.txt"):
        store.fetch_tree("t", tmp_path / "back")


def test_an_unfinished_tree_is_not_used(store: LocalBlobStore, tree: Path, tmp_path: Path) -> None:
    store.put_tree("t", tree)
    store.delete(f"t/{SUMS}")
    with pytest.raises(BlobCorrupt, match="not complete"):
        store.fetch_tree("t", tmp_path / "back")
