"""The embedded Valkey, used through Celery's transport."""

import shutil
from pathlib import Path

import psutil
import pytest
import redis
from kombu.connection import Connection

from app.local.valkey import EmbeddedValkey


@pytest.mark.parametrize("name", ["plain", "long-" + "x" * 120, "with space"])
def test_celery_transport_delivers_over_the_socket(state_dir: Path, name: str) -> None:
    with (
        EmbeddedValkey(state_dir / name) as valkey,
        Connection(valkey.url) as connection,  # type: ignore[no-untyped-call]
    ):
        queue = connection.SimpleQueue("train")
        queue.put({"job": 1})
        message = queue.get(timeout=60)
        message.ack()
        queue.close()
        assert message.payload == {"job": 1}
    shutil.rmtree(valkey.socket_path.parent)  # outside the state directory for the long and unusual names


def test_no_tcp_port_and_no_persistence(state_dir: Path) -> None:
    with EmbeddedValkey(state_dir) as valkey:
        with redis.Redis.from_url(f"unix://{valkey.socket_path}", decode_responses=True) as client:
            client.set("key", "value")
            server = psutil.Process(int(client.info()["process_id"]))
            assert client.config_get("save")["save"] == ""
            assert [entry for entry in server.net_connections("tcp") if entry.status == "LISTEN"] == []
        assert valkey.socket_path.parent.stat().st_mode & 0o777 == 0o700
    assert not server.is_running()
    with (
        EmbeddedValkey(state_dir) as again,
        redis.Redis.from_url(f"unix://{again.socket_path}") as client,
    ):
        assert client.get("key") is None
