"""Every blob store: a blob is stored whole or not at all, is never overwritten, and cannot leave the store's root."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from app.core.storage.blobs import SUMS, BlobCorrupt, BlobMissing, BlobStore, StorageUnavailable
from app.core.storage.local import LocalBlobStore
from app.core.storage.opening import open_store
from app.core.storage.s3 import PART_BYTES, Bucket, S3BlobStore
from tests.s3_server import BUCKET, CREDENTIALS, s3_client

MIB = 1 << 20


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    """An empty store of each type."""
    if request.param == "local":
        return LocalBlobStore(tmp_path / "store")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    address = request.getfixturevalue("s3_address")
    return open_store(tmp_path / "unused", f"s3://{BUCKET}/{uuid4().hex}/blobs", address, "us-east-1")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "a.txt").write_text("a")
    (tmp_path / "tree" / "sub" / "b.txt").write_text("b")
    return tmp_path / "tree"


def mebibytes(count: int) -> Iterator[bytes]:
    return (bytes([number % 251]) * MIB for number in range(count))


def content(store: BlobStore, key: str) -> bytes:
    with store.open(key) as blob:
        return blob.read()


def test_written_blob_can_be_read(store: BlobStore) -> None:
    stored = store.write("files/one", [b"ab", b"c"])
    assert (stored.bytes, stored.sha256) == (3, sha256(b"abc").hexdigest())
    assert content(store, "files/one") == b"abc"
    assert store.exists("files/one")
    assert not store.exists("files")
    assert store.list("files") == ["files/one"]
    store.delete("files/one")
    store.delete("files/one")
    assert not store.exists("files/one")
    with pytest.raises(BlobMissing):
        store.open("files/one")


def test_multipart_blob_can_be_read_anywhere(store: BlobStore) -> None:
    expected = b"".join(mebibytes(20))
    stored = store.write("big", mebibytes(20))
    assert (stored.bytes, stored.sha256) == (len(expected), sha256(expected).hexdigest())
    with store.open("big") as blob:
        assert blob.seek(0, 2) == len(expected)
        blob.seek(PART_BYTES - 3)
        assert blob.read(2 * MIB) == expected[PART_BYTES - 3 : PART_BYTES - 3 + 2 * MIB]
        blob.seek(0)
        assert blob.read() == expected


@pytest.mark.parametrize("count", [0, 1, PART_BYTES // MIB])
def test_part_boundary_sizes_are_stored_whole(store: BlobStore, count: int) -> None:
    assert store.write("edge", mebibytes(count)).bytes == len(content(store, "edge")) == count * MIB


@pytest.mark.slow
def test_s3_memory_does_not_grow_with_blobs(s3_address: str) -> None:
    # In a separate process: the test server runs in this one and keeps all uploaded data in memory.
    code = f"""
import resource
from pathlib import Path
from app.core.storage.opening import open_store
store = open_store(Path('/nowhere'), 's3://{BUCKET}/{uuid4().hex}', {s3_address!r}, 'us-east-1')
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def work(key, mib):
    store.write(key, (bytes(1 << 20) for _ in range(mib)))
    with store.open(key) as blob:
        while blob.read(1 << 20): pass
    return peak()
print(work('warm', 80), work('large', 240))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | CREDENTIALS,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    small, large = map(int, done.stdout.split())
    assert large - small < 100, done.stdout


def test_blob_is_never_overwritten(store: BlobStore) -> None:
    store.write("one", [b"first"])
    for chunks in ([b"second"], mebibytes(12)):
        with pytest.raises(FileExistsError):
            store.write("one", chunks)
    assert content(store, "one") == b"first"


@pytest.mark.parametrize("sent", [0, 20])
def test_broken_upload_leaves_nothing(store: BlobStore, sent: int, request: pytest.FixtureRequest) -> None:
    def chunks() -> Iterator[bytes]:
        yield from mebibytes(sent)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.write("files/one", chunks())
    assert store.list("files") == []
    if isinstance(store, S3BlobStore):
        uploads = s3_client(request.getfixturevalue("s3_address")).list_multipart_uploads(Bucket=BUCKET)
        assert not uploads.get("Uploads")
    else:
        root = request.getfixturevalue("tmp_path") / "store"
        assert not [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\0b", ".incoming/x", "a\\b"]
)
def test_keys_cannot_leave_the_store(store: BlobStore, key: str) -> None:
    calls: list[Callable[[str], object]] = [store.open, store.exists, store.list, store.delete, store.delete_tree]
    for call in calls:
        with pytest.raises(ValueError, match="not a blob key"):
            call(key)
    with pytest.raises(ValueError, match="not a blob key"):
        store.write(key, [b"x"])


def test_tree_round_trip(store: BlobStore, tree: Path, tmp_path: Path) -> None:
    assert sorted(store.put_tree("jobs/1/adapter", tree)) == ["a.txt", "sub/b.txt"]
    store.write("jobs/10", [b"a neighbour whose name begins alike"])
    store.fetch_tree("jobs/1/adapter", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "b.txt").read_text() == "b"
    assert store.list("jobs/1/adapter")[0] == f"jobs/1/adapter/{SUMS}"
    store.delete_tree("jobs/1")
    store.delete_tree("jobs/1")
    assert store.list("jobs") == ["jobs/10"]


@pytest.mark.parametrize("put_back", [[], [b"c"]])
def test_changed_or_missing_file_is_detected(
    store: BlobStore, tree: Path, tmp_path: Path, put_back: list[bytes]
) -> None:
    store.put_tree("t", tree)
    store.delete("t/sub/b.txt")
    if put_back:
        store.write("t/sub/b.txt", put_back)
    with pytest.raises(BlobCorrupt, match=r"sub/b\.txt"):
        store.fetch_tree("t", tmp_path / "back")


def test_incomplete_tree_is_rejected(store: BlobStore, tree: Path, tmp_path: Path) -> None:
    store.put_tree("t", tree)
    store.delete(f"t/{SUMS}")
    with pytest.raises(BlobCorrupt, match="not complete"):
        store.fetch_tree("t", tmp_path / "back")


def test_blob_is_available_as_a_file(store: BlobStore) -> None:
    store.write("files/one", mebibytes(3))
    ticks: list[None] = []
    with store.as_file("files/one", lambda: ticks.append(None)) as path:
        assert path.read_bytes() == b"".join(mebibytes(3))
    assert ticks
    assert store.exists("files/one")
    with pytest.raises(BlobMissing), store.as_file("files/two", lambda: None):
        pass


def test_discard_removes_blobs_and_trees(store: BlobStore, tree: Path) -> None:
    store.write("files/one", [b"1"])
    store.put_tree("jobs/1/adapter", tree)
    for name in ("files/one", "jobs/1", "files/never-there"):
        store.discard(name)
    assert store.list("files") == store.list("jobs") == []
    store.remove_incomplete(datetime.now(UTC))


def test_shared_content_keeps_both_keys(store: BlobStore) -> None:
    for key, content in (("a", b"same"), ("b", b"same"), ("c", b"else")):
        store.write(f"files/{key}", [content])
    for key, other in (("b", "a"), ("b", "a"), ("c", "a"), ("gone", "a"), ("b", "gone")):
        store.share(f"files/{key}", f"files/{other}")
    assert store.list("files") == ["files/a", "files/b", "files/c"]
    store.delete("files/a")
    for key, content in (("b", b"same"), ("c", b"else")):
        with store.open(f"files/{key}") as blob:
            assert blob.read() == content


def test_local_store_keeps_equal_content_once(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    for key in ("a", "b", "damaged"):
        store.write(f"files/{key}", [b"same"])
    store.share("files/b", "files/a")
    assert store.path("files/b").samefile(store.path("files/a"))
    store.path("files/damaged").write_bytes(b"else")
    store.write("files/new", [b"same"])
    store.share("files/new", "files/damaged")
    assert store.path("files/new").read_bytes() == b"same"
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_scan_returns_the_write_time(store: BlobStore) -> None:
    store.write("files/one", [b"1"])
    (scanned,) = store.scan("files")
    assert scanned.key == "files/one"
    assert abs(scanned.written_at - datetime.now(UTC)) < timedelta(seconds=60)


def test_writability_check_leaves_nothing(store: BlobStore) -> None:
    store.write("files/one", [b"1"])
    store.check_writable()
    assert store.list("files") == ["files/one"]


def test_missing_bucket_is_storage_unavailable(
    s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    store = open_store(tmp_path, "s3://no-such-bucket", s3_address, "us-east-1")
    with pytest.raises(StorageUnavailable, match="no-such-bucket"):
        store.check_writable()
    with pytest.raises(StorageUnavailable):
        store.write("files/one", [b"1"])


def test_closed_port_is_storage_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    store = S3BlobStore(Bucket(BUCKET, None, "us-east-1", "http://127.0.0.1:9"), retries=1)
    for call in (store.check_writable, lambda: store.exists("a"), lambda: store.list("a"), lambda: store.open("a")):
        with pytest.raises(StorageUnavailable, match="GROUPTUNE_STORAGE_ENDPOINT") as caught:
            call()
        assert caught.value.message_for_clients == "The blob store is unavailable. Try again in a few seconds."
    store.discard("a")  # logs the error; the collection of orphaned blobs retries later
