"""A small OTLP receiver: an HTTP server on loopback which takes traces as a collector does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PROTOBUF = "application/x-protobuf"
TAKEN = ExportTraceServiceResponse().SerializeToString()

Answer = Callable[[BaseHTTPRequestHandler], None]


@define(eq=False)
class Receiver:
    """What was received. `answer` answers a request: as a collector that takes all, by default."""

    port: int = 0
    answer: Answer = field(factory=lambda: take_all)
    bodies: list[bytes] = field(factory=list)
    heads: list[tuple[str, dict[str, str]]] = field(factory=list)
    over: threading.Event = field(factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        return [span for _, span in self.with_resources()]

    def with_resources(self) -> list[tuple[dict[str, Any], Span]]:
        """Each span, with the attributes of its resource."""
        return [
            (attributes(group.resource), span)
            for body in list(self.bodies)
            for group in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span, an event or a resource."""
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
        for one in of.attributes
    }


def take_all(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, TAKEN)


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    kind: str = PROTOBUF,
    **more: str,
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    for name, value in more.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """Yields a receiver that listens; at the end its threads are over."""
    found = Receiver()
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heads.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            found.bodies.append(body)
            found.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # so that closing it waits for them

        def handle_error(self, *_: Any) -> None:
            pass  # its client was killed, or ended

    with Server(("127.0.0.1", port), Handler) as server:
        found.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield found
        finally:
            found.over.set()
            server.shutdown()
            for one in connections:  # clients keep them open
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            serving.join()
