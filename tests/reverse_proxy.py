"""A real reverse proxy that serves another server below a path prefix."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextmanager
def reverse_proxy(upstream: str, prefix: str, *, strip: bool, port: int = 0) -> Iterator[str]:
    """Yield the address of `upstream` below `prefix`, which the proxy strips from all paths or keeps.

    Listens on `port`, or on a free one. All connections are closed at the end.

    Other paths are not served. Passes bytes on as they arrive, so streams work. Each request has a connection of its
    own.
    """
    target = urlsplit(upstream)
    open_connections: set[socket.socket] = set()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            open_connections.add(self.connection)
            with suppress(OSError):
                head = self._head()
                if not head:  # browsers open connections in advance
                    return
                method, path, version = head[0].split(" ")
                if not path.startswith(f"{prefix}/"):
                    self.wfile.write(_NOT_FOUND)
                    return
                path = path.removeprefix(prefix) if strip else path
                kept = [line for line in head[1:] if not line.lower().startswith("connection:")]
                lines = [f"{method} {path} {version}", *kept, "Connection: close", f"X-Forwarded-Prefix: {prefix}"]
                with socket.create_connection((target.hostname, target.port)) as server:
                    open_connections.add(server)
                    server.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
                    sending = threading.Thread(target=self._send_body, args=(server,))
                    sending.start()
                    while chunk := server.recv(65536):
                        self.connection.sendall(chunk)
                    self.connection.shutdown(socket.SHUT_RDWR)  # ends the other thread
                    sending.join()
                    open_connections.discard(server)
            open_connections.discard(self.connection)

        def _head(self) -> list[str]:
            lines = []
            while (line := self.rfile.readline()).strip():
                lines.append(line.strip().decode("latin-1"))
            return lines

        def _send_body(self, server: socket.socket) -> None:
            with suppress(OSError):
                while chunk := self.rfile.read1(65536):
                    server.sendall(chunk)
                server.shutdown(socket.SHUT_RDWR)  # the client has gone: ends a stream

    class Server(ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}{prefix}"
        finally:
            proxy.shutdown()
            thread.join()
            for connection in list(open_connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
