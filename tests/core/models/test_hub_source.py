"""The hub repository that a base model comes from."""

import os
import subprocess
import sys
from pathlib import Path

from app.core.models.hub_source import HubSource, hub_source
from tests.hub_server import COMMIT, hub_server

FETCH = """
import sys
from pathlib import Path
from app.core.models import registry, sources
sources.fetch(registry.CatalogEntry("mine", "org/mine", 1), Path(sys.argv[1]), print)
"""
REVISION = "0123456789abcdef0123456789abcdef01234567"


def model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def test_pulled_model_knows_its_commit(tmp_path: Path) -> None:
    source = HubSource("org/mine", REVISION)
    directory = model(tmp_path / "mine")
    source.write(directory)
    assert hub_source(directory) == source


def test_link_to_the_hub_cache(tmp_path: Path) -> None:
    """People link a model of the hub client's cache into the models directory instead of copying it."""
    snapshot = model(tmp_path / "hub" / "models--Qwen--Qwen2.5-0.5B-Instruct" / "snapshots" / REVISION)
    (tmp_path / "mine").symlink_to(snapshot)
    assert hub_source(tmp_path / "mine") == HubSource("Qwen/Qwen2.5-0.5B-Instruct", REVISION)


def test_catalog_model_has_a_hub_id(tmp_path: Path) -> None:
    assert hub_source(model(tmp_path / "qwen3-0.6b")) == HubSource("Qwen/Qwen3-0.6B", licence="apache-2.0")


def test_local_model_has_none(tmp_path: Path) -> None:
    directory = model(tmp_path / "mine")
    assert hub_source(directory) is None
    for broken in ("{", "[]", "{}", "null"):
        (directory / "hub_source.json").write_text(broken)
        assert hub_source(directory) is None


def test_download_stores_the_commit(tmp_path: Path) -> None:
    with hub_server(
        {}, {"org/mine": {"config.json": b"{}", "model.safetensors": b"weights", "photo.png": b"-"}}
    ) as url:
        subprocess.run(
            [sys.executable, "-c", FETCH, str(tmp_path / "mine")],
            env=os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"},
            check=True,
            timeout=60,
        )
    fetched = tmp_path / "mine" / "hub"
    assert hub_source(fetched) == HubSource("org/mine", COMMIT, "mit")
    assert (fetched / "model.safetensors").read_bytes() == b"weights"
    assert not (fetched / "photo.png").exists()
