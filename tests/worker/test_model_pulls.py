"""Downloads of base models that clients order, over a real database and a real HTTP server of the hub's protocol."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.models import pulls, sources
from app.core.models.hub_source import hub_source
from app.core.models.sources import Progress
from app.core.models.tables import ModelPull, PullStatus
from app.core.settings import Settings
from tests.hub_server import hub_server
from tests.waiting import eventually
from worker import model_pulls
from worker.process_control import Drain


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (tmp_path / "models").mkdir()
    return Settings(state_dir=tmp_path / "state", models_dir=tmp_path / "models")


def ordered(database: Database, settings: Settings, name: str) -> ModelPull:
    with database.transaction() as session:
        return pulls.order(session, sources.to_pull(name, settings.models_dir))[0]


def stored(database: Database, name: str) -> ModelPull:
    with database.reading() as session:
        return session.get_one(ModelPull, name)


def test_repository_of_the_hub(
    database: Database, settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in (tiny_models / "tiny").iterdir()}
    ordered(database, settings, "org/Mine-1")
    with hub_server({}, {"org/Mine-1": files}) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert model_pulls.pull_one(database, settings, Drain())
    pull = stored(database, "mine-1")
    assert (pull.status, pull.error) == (PullStatus.succeeded, None)
    directory = settings.models_dir / "mine-1"
    assert (directory / "model.safetensors").is_file()
    source = hub_source(directory)
    assert source is not None
    assert (source.hub_id, source.licence) == ("org/Mine-1", "mit")
    assert sorted(path.name for path in settings.models_dir.iterdir()) == [".mine-1.lock", "mine-1"]
    assert not model_pulls.pull_one(database, settings, Drain())
    with pytest.raises(InvalidRequest, match="is the name of org/Mine-1 on this server"):
        sources.to_pull("other/mine-1", settings.models_dir)
    with pytest.raises(InvalidRequest, match="is the name of Qwen/Qwen3"):
        sources.to_pull("other/qwen3-0.6b", settings.models_dir)


@contextmanager
def silent_hub() -> Iterator[tuple[str, socket.socket]]:
    """A server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", listener


def test_cancel_ends_the_download(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(database, settings, "qwen3-0.6b")
    with silent_hub() as (url, listener):
        monkeypatch.setenv("HF_ENDPOINT", url)
        worker = threading.Thread(target=model_pulls.pull_one, args=(database, settings, Drain()))
        worker.start()
        connection, _ = listener.accept()
        eventually(lambda: "Looking for" in (stored(database, "qwen3-0.6b").stage or ""))
        with database.transaction() as session:
            pulls.cancel(session, "qwen3-0.6b")
        worker.join(60)
        assert not worker.is_alive()
        connection.close()
    assert stored(database, "qwen3-0.6b").status == PullStatus.cancelled
    assert [path.name for path in settings.models_dir.iterdir()] == [".qwen3-0.6b.lock"]


def test_failed_download_says_why(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered(database, settings, "qwen3-0.6b")
    with hub_server({}, {}) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        model_pulls.pull_one(database, settings, Drain())
    failed = stored(database, "qwen3-0.6b")
    assert failed.status == PullStatus.failed
    assert "Could not fetch qwen3-0.6b (hub: 404" in (failed.error or "")
    assert ordered(database, settings, "qwen3-0.6b").status == PullStatus.queued


def test_lost_claims(database: Database, settings: Settings) -> None:
    """A killed worker's pull is claimed again, three times at most."""
    ordered(database, settings, "qwen3-0.6b")
    claims = []
    for _ in range(pulls.MAX_ATTEMPTS):
        with database.transaction() as session:
            claim = pulls.claim_next(session, -1.0)
            assert claim is not None
            claims.append(claim)
    with database.transaction() as session:
        assert pulls.any_due(session)
        assert pulls.renew(session, claims[0], 60.0, Progress("late")) is None
        assert pulls.claim_next(session, 60.0) is None
    assert "killed 3 times" in (stored(database, "qwen3-0.6b").error or "")
