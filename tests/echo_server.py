"""A plain HTTP/1.1 server on loopback that echoes requests, with the routes of the conformance
cases.
"""

from __future__ import annotations

import email.parser
import email.policy
import gzip
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(
        self, code: int, body: bytes, content_type: str = "text/plain", **headers: str
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if code != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and code != 204:
            self.wfile.write(body)

    def handle_any(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        _, route, *rest = parts.path.split("/")
        argument = rest[0] if rest else ""
        handler = getattr(self, f"route_{route}", None)
        try:
            if handler is None:
                self._answer(404, b"not found")
            else:
                handler(argument, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

    def route_echo(self, _: str, body: bytes) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        parts = urlsplit(self.path)
        said: dict[str, Any] = {
            "method": self.command, "path": parts.path, "query": parts.query,
            "headers": {name: ", ".join(values) for name, values in headers.items()},
            "body": "", "fields": {}, "files": {},
        }  # fmt: skip
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            self._read_form(content_type, body, said)
        else:
            said["body"] = body.decode("utf-8")
        self._answer(200, json.dumps(said).encode(), "application/json")

    def _read_form(self, content_type: str, body: bytes, said: dict[str, Any]) -> None:
        parser = email.parser.BytesParser(policy=email.policy.HTTP)
        for part in parser.parsebytes(
            b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
        ).iter_parts():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True).decode("utf-8")
            if part.get_filename() is None:
                said["fields"][name] = data
            else:
                said["files"][name] = {
                    "file_name": part.get_filename(),
                    "content_type": part.get_content_type(),
                    "data": data,
                }

    def route_status(self, code: str, _: bytes) -> None:
        self._answer(int(code), f"status {code}".encode())

    def route_bytes(self, count: str, _: bytes) -> None:
        self._answer(200, b"x" * int(count))

    def route_chunked(self, count: str, _: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        left = int(count)
        while left:
            size = min(left, 8192)
            self.wfile.write(b"%x\r\n%s\r\n" % (size, b"x" * size))
            left -= size
        self.wfile.write(b"0\r\n\r\n")

    def route_slow(self, seconds: str, _: bytes) -> None:
        time.sleep(float(seconds))
        self._answer(200, b"slow")

    def route_drip(self, seconds: str, _: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"a")
        self.wfile.flush()
        time.sleep(float(seconds))
        self.wfile.write(b"b")

    def route_redirect(self, count: str, _: bytes) -> None:
        left = int(count) - 1
        base = f"http://{self.headers['Host']}"
        self._answer(302, b"", Location=f"{base}/redirect/{left}" if left else f"{base}/echo")

    def route_to(self, code: str, _: bytes) -> None:
        """Redirect with any code to any place: /to/307?http://..."""
        self._answer(int(code), b"", Location=urlsplit(self.path).query)

    def route_unicode(self, *_: object) -> None:
        self._answer(200, "Zoë ☃".encode(), "text/plain; charset=utf-8")

    def route_latin(self, *_: object) -> None:
        self._answer(200, "Zoë".encode("latin-1"), "text/plain; charset=iso-8859-1")

    def route_binary(self, *_: object) -> None:
        self._answer(200, bytes.fromhex("fffe0080616263"), "application/octet-stream")

    def route_gzip(self, *_: object) -> None:
        self._answer(200, gzip.compress(b"unzipped"), Content_Encoding="gzip")

    def route_bomb(self, size: str, _: bytes) -> None:
        self._answer(200, gzip.compress(b"\0" * int(size), 9), Content_Encoding="gzip")

    def route_close(self, *_: object) -> None:
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Print nothing when a client hangs up."""


@contextmanager
def echo_server() -> Iterator[str]:
    """Run the server in a thread; give its base URL."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
