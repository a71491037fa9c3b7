"""Downloads of base models: what a killed download leaves behind."""

from pathlib import Path

import pytest

from app.core.models.sources import ModelUnavailable
from tests.http_server import free_port
from worker import base_models


def test_killed_download_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next download of the model removes them, whether it succeeds or not."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    draft = tmp_path / ".qwen3-0.6b.draft" / "hub"
    draft.mkdir(parents=True)
    (draft / "model.safetensors.incomplete").write_bytes(b"half")
    (tmp_path / ".qwen3-0.6b-other").mkdir()
    with pytest.raises(ModelUnavailable, match=r"qwen3-0\.6b"):
        base_models.pull("qwen3-0.6b", tmp_path, lambda _progress: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".qwen3-0.6b-other", ".qwen3-0.6b.lock"]
