"""A proxy that passes bytes on, whatever they are, until it cuts its connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from attrs import define, field


@define(eq=False)
class TcpProxy:
    """Made by `tcp_proxy`. Every method may be called from any thread."""

    url: str
    upstream: str
    _sockets: set[socket.socket] = field(factory=set)
    _is_cut: bool = False
    _lock: threading.Lock = field(factory=threading.Lock)

    def cut(self) -> None:
        """Cut all connections, and those that come, until `repair`."""
        with self._lock:
            self._is_cut = True
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def repair(self) -> None:
        """Pass on what comes from now on."""
        with self._lock:
            self._is_cut = False

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the end
                return
            try:
                server = connect_to(self.upstream)
            except OSError:
                client.close()
                continue
            with self._lock:
                if self._is_cut:
                    client.close()
                    server.close()
                    continue
                self._sockets |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()


@contextmanager
def tcp_proxy(upstream: str) -> Iterator[TcpProxy]:
    """A proxy on loopback in front of the server at `unix://PATH` or `redis://HOST:PORT`."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        proxy = TcpProxy(f"redis://127.0.0.1:{listener.getsockname()[1]}", upstream)
        thread = threading.Thread(target=proxy._accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            proxy.cut()


def connect_to(url: str) -> socket.socket:
    """A connection to the server at `unix://PATH` or `redis://HOST:PORT`."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        server = socket.socket(socket.AF_UNIX)
        server.connect(parts.path)
        return server
    return socket.create_connection((parts.hostname or "localhost", parts.port or 6379))
