"""Requests to loopback servers under made-up names: a dict resolves them, the connector records what it dials."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.core.deadline import Deadline
from app.core.egress.client import AddressRefused, Egress, EgressFailed, ResponseTooLarge, check_url, dial
from app.core.egress.ip_policy import PrivateHosts

PUBLIC = "93.184.215.14"
Handle = Callable[[socket.socket, bytes], None]
"""Called with the connection and the head of the request."""


@contextmanager
def tcp_server(handle: Handle, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Listen on the loopback with one thread per connection; yield the port."""
    with ExitStack() as running:
        listener = running.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(raw,), daemon=True).start()

        def answer(raw: socket.socket) -> None:
            try:
                connection = context.wrap_socket(raw, server_side=True) if context else raw
                with connection:
                    while head := read_head(connection):
                        handle(connection, head)
            except OSError:
                raw.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        running.callback(thread.join, 5)
        running.callback(listener.shutdown, socket.SHUT_RDWR)
        yield listener.getsockname()[1]


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := connection.recv(1)):
            return b""
        head += byte
    return head


def reply(body: bytes = b"ok", *headers: str, status: str = "200 OK") -> Handle:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]

    def handle(connection: socket.socket, _head: bytes) -> None:
        connection.sendall("\r\n".join(lines).encode() + body)

    return handle


class FakeNetwork:
    """A resolver backed by a dict, and a connector that dials `port` of the loopback for every address."""

    def __init__(self, port: int = 0, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.port = port
        self.resolved: list[str] = []
        self.dialled: list[tuple[str, int]] = []

    def resolve(self, host: str, _port: int) -> list[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise socket.gaierror(-2, "Name or service not known")
        return self.names[host]

    def connect(self, address: str, port: int, timeout: float | None) -> httpcore.NetworkStream:
        self.dialled.append((address, port))
        return dial("127.0.0.1", self.port, timeout)

    def egress(self, *allowed: str, ssl_context: ssl.SSLContext | None = None) -> Egress:
        return Egress(PrivateHosts.parse(allowed), resolve=self.resolve, connect=self.connect, ssl_context=ssl_context)


def get(egress: Egress, url: str, *, seconds: float = 60, max_bytes: int = 1000, cut: bool = False) -> bytes:
    with egress:
        return egress.request("GET", url, timeout_seconds=seconds, max_bytes=max_bytes, cut=cut).body


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS context for hooks.example, and a client's that trusts only its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


def test_connection_uses_checked_address_and_name(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    heads: list[bytes] = []
    names: list[str | None] = []
    server, client = tls
    server.sni_callback = lambda _socket, name, _context: names.append(name)

    def handle(connection: socket.socket, head: bytes) -> None:
        heads.append(head.lower())
        reply()(connection, head)

    with tcp_server(handle, server) as port:
        network = FakeNetwork(port, hooks_example=[PUBLIC])
        assert get(network.egress(ssl_context=client), "https://hooks.example/a?b=c") == b"ok"
    assert (network.resolved, network.dialled) == (["hooks.example"], [(PUBLIC, 443)])
    assert names == ["hooks.example"]
    assert b"\r\nhost: hooks.example\r\n" in heads[0]
    assert heads[0].startswith(b"get /a?b=c http/1.1")


def test_certificate_of_another_name_is_rejected(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with tcp_server(reply(), tls[0]) as port:
        network = FakeNetwork(port, other_example=[PUBLIC])
        with pytest.raises(EgressFailed, match=r"other\.example cannot be reached.*(?i:certificate)"):
            get(network.egress(ssl_context=tls[1]), "https://other.example/")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["::1"], ["64:ff9b::a00:1"], [PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC]],
)
def test_host_with_a_private_address_is_rejected(addresses: list[str]) -> None:
    network = FakeNetwork(evil_example=addresses)
    with pytest.raises(AddressRefused, match="Only the operator"):
        get(network.egress(), "https://evil.example/")
    assert network.dialled == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "localhost", "127.1"])
def test_loopback_spellings_are_rejected(host: str) -> None:
    with Egress() as egress, pytest.raises((AddressRefused, EgressFailed)) as caught:
        egress.request("GET", f"https://{host}/", timeout_seconds=60, max_bytes=10)
    assert isinstance(caught.value, AddressRefused) or "not resolved" in caught.value.message


def test_name_is_resolved_once() -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]
    with tcp_server(reply()) as port:
        network = FakeNetwork(port)
        egress = Egress(
            PrivateHosts.parse(["rebind.example"]), resolve=lambda _h, _p: answers.pop(0), connect=network.connect
        )
        assert get(egress, "http://rebind.example/") == b"ok"
    assert network.dialled == [(PUBLIC, 80)]
    assert answers == [["127.0.0.1"]]


def test_next_address_is_tried() -> None:
    with tcp_server(reply()) as port:
        network = FakeNetwork(port, two_example=["10.0.0.1", "10.0.0.2"])

        def connect(address: str, to: int, timeout: float | None) -> httpcore.NetworkStream:
            if address == "10.0.0.1":
                raise httpcore.ConnectError("refused")
            return network.connect(address, to, timeout)

        egress = Egress(PrivateHosts.parse(["10.0.0.0/8"]), resolve=network.resolve, connect=connect)
        assert get(egress, "http://two.example/") == b"ok"


@pytest.mark.parametrize("allowed", ["judge.internal", "10.0.0.0/8"])
def test_operator_can_allow_private_hosts(allowed: str) -> None:
    with tcp_server(reply()) as port:
        network = FakeNetwork(port, judge_internal=["10.0.0.1"])
        assert get(network.egress(allowed), "http://judge.internal:8000/") == b"ok"
        assert network.dialled == [("10.0.0.1", 8000)]


def test_plain_http_to_public_host_is_rejected() -> None:
    network = FakeNetwork(hooks_example=[PUBLIC])
    with pytest.raises(AddressRefused, match="https"):
        get(network.egress(), "http://hooks.example/")
    with pytest.raises(AddressRefused, match="https"):  # the address is known only once the name is resolved
        get(network.egress("10.0.0.0/8"), "http://hooks.example/")
    assert network.dialled == []


def test_redirects_proxies_cookies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    heads: list[bytes] = []

    def handle(connection: socket.socket, head: bytes) -> None:
        heads.append(head.lower())
        answer = reply(b"", "location: http://127.0.0.1/inside", "set-cookie: a=b", status="302 Found")
        answer(connection, head)

    with tcp_server(handle) as port, FakeNetwork(port, a_internal=["10.0.0.1"]).egress("a.internal") as egress:
        for _ in range(2):
            answer = egress.request("GET", "http://a.internal/", timeout_seconds=60, max_bytes=10)
            assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.1/inside")
    assert len(heads) == 2
    assert b"cookie" not in heads[1]


def test_large_response_is_rejected_or_cut() -> None:
    with tcp_server(reply(b"x" * 5000)) as port:
        network = FakeNetwork(port, a_internal=["10.0.0.1"])
        with pytest.raises(ResponseTooLarge):
            get(network.egress("a.internal"), "http://a.internal/", max_bytes=4999)
        assert get(network.egress("a.internal"), "http://a.internal/", max_bytes=7, cut=True) == b"x" * 7


def test_compressed_response_is_rejected() -> None:
    with tcp_server(reply(b"\x1f\x8b", "content-encoding: gzip")) as port:
        network = FakeNetwork(port, a_internal=["10.0.0.1"])
        with pytest.raises(EgressFailed, match="compressed"):
            get(network.egress("a.internal"), "http://a.internal/")


@pytest.mark.parametrize("part", ["head", "body"])
def test_slow_response_times_out(part: str) -> None:
    stop = threading.Event()

    def handle(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n" + (b"\r\n" if part == "body" else b"x: "))
        while not stop.wait(0.02):
            connection.sendall(b"x")

    with tcp_server(handle) as port:
        network = FakeNetwork(port, a_internal=["10.0.0.1"])
        started = time.monotonic()
        with pytest.raises(EgressFailed, match=r"within 0\.3 s"):
            get(network.egress("a.internal"), "http://a.internal/", seconds=0.3, max_bytes=10**6)
        assert time.monotonic() - started < 60  # the whole response would take half an hour
        stop.set()


def test_hanging_resolver_times_out() -> None:
    release = threading.Event()

    def resolve(_host: str, _port: int) -> list[str]:
        release.wait(20)
        return [PUBLIC]

    with pytest.raises(EgressFailed, match=r"within 0\.2 s"):
        get(Egress(resolve=resolve), "https://slow.example/", seconds=0.2)
    release.set()


def test_unreachable_hosts_are_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed_port = listener.getsockname()[1]
    network = FakeNetwork(closed_port, a_internal=["10.0.0.1"])
    with pytest.raises(EgressFailed, match=r"a\.internal cannot be reached"):
        get(network.egress("a.internal"), "http://a.internal/")
    with pytest.raises(EgressFailed, match="not resolved"):
        get(network.egress(), "https://nowhere.example/")
    with (
        tcp_server(lambda connection, _head: connection.sendall(b"SSH-2.0\r\n\r\n")) as port,
        pytest.raises(EgressFailed, match="cannot be reached"),
    ):
        get(FakeNetwork(port, a_internal=["10.0.0.1"]).egress("a.internal"), "http://a.internal/")


def test_connections_are_reused() -> None:
    with tcp_server(reply()) as port:
        network = FakeNetwork(port, a_internal=["10.0.0.1"])
        with network.egress("a.internal") as egress:
            for _ in range(3):
                egress.request("POST", "http://a.internal/", content=b"{}", timeout_seconds=60, max_bytes=10)
    assert len(network.dialled) == 1


def test_close_reaches_a_connection_being_opened() -> None:
    opened: list[httpcore.NetworkStream] = []

    def connect(address: str, port: int, timeout: float | None) -> httpcore.NetworkStream:
        opened.append(network.connect(address, port, timeout))
        egress.close()
        return opened[0]

    with tcp_server(reply()) as port:
        network = FakeNetwork(port, a_internal=["10.0.0.1"])
        egress = Egress(PrivateHosts.parse(["a.internal"]), resolve=network.resolve, connect=connect)
        with pytest.raises(EgressFailed, match="the client was closed"):
            egress.request("GET", "http://a.internal/", timeout_seconds=60, max_bytes=10)
    assert opened[0].get_extra_info("socket").fileno() == -1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with https://"),
        ("ftp://a.example/", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("https:///x", "must begin with https://"),
        ("http://a.example/", "must begin with https://.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=a.example"),
        ("http://93.184.215.14/", "must begin with https://.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=93.184.215.14"),
        (
            "http://localhost:11434/v1",
            "this machine .*_HOSTS=localhost:11434 grouptune up",
        ),
        ("https://LOCALHOST./v1", "this machine .*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=localhost"),
        ("http://ollama:11434/v1", "its network.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=ollama:11434 "),
        ("http://host.docker.internal:11434/v1", "its.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=host.docker.internal:11434 "),
        ("https://judge.internal/", "its network.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=judge.internal"),
        ("http://192.168.1.5:8000/", "a private address.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=192.168.1.5:8000 "),
        ("https://user:secret@a.example/", "user and password"),
        ("https://a.example/#top", "fragment"),
        ("https://127.0.0.1/", "loopback"),
        ("https://[::1]:8080/", r"loopback.*GROUPTUNE_ALLOWED_PRIVATE_HOSTS=\[::1\]:8080 "),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://169.254.169.254/latest/meta-data", "link-local"),
        ("https://a.example:99999/", "cannot be read"),
        ("https://a.example/" + "x" * 2048, "2048 characters"),
    ],
)
def test_unusable_urls_are_rejected(url: str, reason: str) -> None:
    with pytest.raises(AddressRefused, match=reason) as caught:
        check_url(url, PrivateHosts(), "url")
    assert (caught.value.param, caught.value.status) == ("url", 400)


def test_usable_urls_are_accepted() -> None:
    allowed = PrivateHosts.parse(["10.0.0.0/8", "judge.internal"])
    for url in ("https://a.example:8443/x?y", "https://93.184.215.14/", "http://10.0.0.1/", "http://judge.internal/"):
        assert str(check_url(url, allowed)) == url
    assert check_url("http://may-be-inside.example/", allowed).scheme == "http"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_expired_deadline_interrupts_a_read(scheme: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    deadline, hung_up = Deadline(), threading.Event()

    def never_answer(connection: socket.socket, _head: bytes) -> None:
        threading.Timer(0.05, deadline.expire).start()
        assert connection.recv(1) == b""
        hung_up.set()

    with tcp_server(never_answer, tls[0] if scheme == "https" else None) as port:
        network = FakeNetwork(port, hooks_example=[PUBLIC])
        with network.egress("hooks.example", ssl_context=tls[1]) as egress, pytest.raises(EgressFailed):
            egress.request("GET", f"{scheme}://hooks.example/", timeout_seconds=600, max_bytes=1000, deadline=deadline)
        assert hung_up.wait(60)
