"""Rollout servers on the worker's own devices are woken after every attempt."""

import json
import socket
from collections.abc import Iterator

import pytest

from app.core.jobs.state_machine import JobStatus
from app.core.retry import RetryPolicy
from app.core.settings import Settings
from tests.http_server import Received, Reply, http_server
from tests.worker.conftest import Bench
from worker import rollout_servers

SOON = RetryPolicy(2, longest_wait_seconds=0.01)


class Server:
    """Records requests; `replies` come first."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None]] = []
        self.replies: list[Reply] = []
        self.url = ""

    def answer(self, received: Received) -> Reply:
        self.received.append((received.path, received.headers.get("authorization")))
        return self.replies.pop(0) if self.replies else Reply()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("GROUPTUNE_ROLLOUT_API_KEY", "s3cr3t")
    found = Server()
    with http_server(found.answer) as found.url:
        yield found


def sharing(*urls: str) -> Settings:
    return Settings(rollout_url=urls, rollout_shares_device=True)


@pytest.mark.parametrize(("behaviour", "status"), [("train:1", JobStatus.succeeded), ("crash:1", JobStatus.queued)])
def test_server_is_woken_after_the_attempt(bench: Bench, server: Server, behaviour: str, status: JobStatus) -> None:
    shared = {"rollout_url": (server.url,), "rollout_shares_device": True}
    bench.settings = bench.settings.model_copy(update=shared)
    assert bench.run(behaviour).status == status
    assert server.received == [("/wake_up", "Bearer s3cr3t")]
    assert json.loads((bench.run_dir() / "spec.json").read_text())["rollout_shares_device"] is True


def test_server_elsewhere_is_left_alone(server: Server) -> None:
    rollout_servers.wake_up(Settings(rollout_url=(server.url,)))
    assert server.received == []


def test_dead_server_does_not_keep_others_asleep(server: Server) -> None:
    server.replies = [Reply(status=503)]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        rollout_servers.wake_up(sharing(dead, server.url), SOON)
    assert len(server.received) == 2
    server.replies = [Reply(status=404)]
    rollout_servers.wake_up(sharing(server.url), SOON)
    assert len(server.received) == 3


def test_sharing_a_device_needs_a_server() -> None:
    with pytest.raises(ValueError, match="GROUPTUNE_ROLLOUT_SHARES_DEVICE needs GROUPTUNE_ROLLOUT_URL"):
        sharing()
