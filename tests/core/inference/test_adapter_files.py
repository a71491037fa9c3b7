"""Copies of adapters for engines: content-addressed, whole, and evicted by their last use."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.core.inference import adapter_files
from app.core.inference.adapter_files import evict, fetch, name_of
from app.core.models.tables import TrainedModel
from app.core.storage.blobs import BlobCorrupt, BlobStore
from app.core.storage.local import LocalBlobStore
from app.core.storage.opening import open_store


def stored(store: BlobStore, scratch: Path, name: str, weights: bytes = b"weights", **files: bytes) -> TrainedModel:
    """Store an adapter as a checkpoint of a job; return its model."""
    directory = scratch / name
    directory.mkdir()
    contents = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights, "optimizer_state.safetensors": b"m"}
    for file, content in (contents | {file.replace("_", "."): content for file, content in files.items()}).items():
        (directory / file).write_bytes(content)
    store.put_tree(f"jobs/{name}", directory)
    return TrainedModel(id=f"ft:{name}", base_model="tiny", blob=f"jobs/{name}")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "local":
        return LocalBlobStore(tmp_path / "storage")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    prefix = f"s3://blobs/{tmp_path.name.replace('[', '-').replace(']', '')}"
    return open_store(tmp_path, prefix, request.getfixturevalue("s3_address"), "us-east-1")


def test_copy_has_the_adapter_and_its_probe_only(store: BlobStore, tmp_path: Path) -> None:
    files = fetch(store, stored(store, tmp_path, "a", probe_json=b"[]"), tmp_path / "serving")
    assert files.path == tmp_path / "serving" / "adapters" / files.name
    assert {file.name for file in files.path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "probe.json",
    }
    assert list((tmp_path / "serving" / "adapters" / ".incoming").iterdir()) == []


def test_name_depends_on_content_and_base(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "storage")
    first, same, other = (
        stored(store, tmp_path, name, weights) for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2"))
    )
    names = [name_of(store, model) for model in (first, same, other)]
    assert names[0] == names[1] != names[2]
    assert all(adapter_files.NAME.fullmatch(name) for name in names)
    same.base_model = "tiny2"
    assert name_of(store, same) != names[0]


def test_concurrent_copies_are_one(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "storage")
    model = stored(store, tmp_path, "a", os.urandom(2_000_000))
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: fetch(store, model, tmp_path / "serving"), range(8)))
    assert len(found) == 1
    assert list((tmp_path / "serving" / "adapters" / ".incoming").iterdir()) == []
    assert next(iter(found)).path.joinpath("adapter_model.safetensors").stat().st_size == 2_000_000


def test_damaged_adapter_leaves_no_copy(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "storage")
    model = stored(store, tmp_path, "a")
    weights = store.path("jobs/a/adapter_model.safetensors")
    weights.unlink()
    weights.write_bytes(b"others")
    with pytest.raises(BlobCorrupt, match="has changed"):
        fetch(store, model, tmp_path / "serving")
    assert [path.name for path in (tmp_path / "serving" / "adapters").iterdir()] == [".incoming"]
    assert list((tmp_path / "serving" / "adapters" / ".incoming").iterdir()) == []


def test_eviction_keeps_what_is_used(tmp_path: Path) -> None:
    store, serve_dir = LocalBlobStore(tmp_path / "storage"), tmp_path / "serving"
    models = [stored(store, tmp_path, str(number), bytes([number])) for number in range(5)]
    copies = [fetch(store, model, serve_dir) for model in models]
    for age, copy in enumerate(reversed(copies)):
        os.utime(copy.path, (0, time.time() - 60 * age - 60))
    assert fetch(store, models[1], serve_dir) == copies[1]  # marks it as used now
    assert evict(serve_dir, 3, {copies[0].name}) == [copies[2].name, copies[3].name]
    assert {path.name for path in (serve_dir / "adapters").glob("g*")} == {copies[n].name for n in (0, 1, 4)}
    assert evict(serve_dir, 3, set()) == []


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    store, serve_dir = LocalBlobStore(tmp_path / "storage"), tmp_path / "serving"
    fetch(store, stored(store, tmp_path, "a"), serve_dir)
    incoming = serve_dir / "adapters" / ".incoming"
    for name, age in (("old", 7200), ("new", 60)):
        (incoming / name).mkdir()
        (incoming / name / "adapter_model.safetensors").write_bytes(b"half")
        os.utime(incoming / name, (0, time.time() - age))
    evict(serve_dir, 3, set())
    assert [path.name for path in incoming.iterdir()] == ["new"]
