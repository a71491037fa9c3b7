"""The port that an installation keeps."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.local.errors import LocalStackError
from app.local.ports import FIRST_PORTS, choose_port, claim_port, store_port

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_first_port_skips_used_ports(tmp_path: Path) -> None:
    with ExitStack() as held:
        with ExitStack() as short:
            first = choose_port(tmp_path, HOST, short)
        assert first in FIRST_PORTS
        held.enter_context(socket.create_server((HOST, first)))
        assert choose_port(tmp_path, HOST, held) in range(first + 1, FIRST_PORTS.stop)


def test_installations_that_start_together_differ(tmp_path: Path) -> None:
    """The first one's API can listen although its port is reserved."""
    with ExitStack() as held:
        first, second = (choose_port(tmp_path, HOST, held) for _ in range(2))
        assert first != second
        for port in (first, second):
            held.enter_context(socket.create_server((HOST, port)))


def test_stored_port_is_reused(tmp_path: Path) -> None:
    port = claim_port(HOST, 0)
    store_port(tmp_path, port)
    assert choose_port(tmp_path, HOST, ExitStack()) == port


def test_stored_port_in_use_is_refused(tmp_path: Path, taken: int) -> None:
    store_port(tmp_path, taken)
    with pytest.raises(LocalStackError, match=rf"{HOST}:{taken}: process \d+ \(`.*`\) uses the port.*--port"):
        choose_port(tmp_path, HOST, ExitStack())


@pytest.mark.parametrize("text", ["", "0", "65536", "eight", "\u0668\u0660"])
def test_damaged_port_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "port").write_text(text, encoding="utf-8")
    with pytest.raises(LocalStackError, match="does not contain a port number"):
        choose_port(tmp_path, HOST, ExitStack())
