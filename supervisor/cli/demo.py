"""`jsbox demo`."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import click
import trio
from attrs import evolve, frozen

from ..client.phone import Hung, Phone, Rejected, Turn, open_phone
from ..config import Address, Config, load
from ..config.model import Isolation, Level
from ..host.scratch import scratch_folder
from .common import isolation_option, run_or_exit, start_logging
from .screen import Screen

SAMPLE = Path(__file__).parents[2] / "sandbox_js" / "sample" / "jsbox.toml"
NUMBER = "+27821234567"
SERVICE_CODE = "*134*7#"
REPLY_SECONDS = 10.0
PORTS = (8430, 8420)  # tried first; if taken, any free ones


@frozen
class Step:
    """What the caller does, and what the screen must show then."""

    action: str  # "dial", or what is typed
    expect: str  # regular expression
    closes: bool = False


FIRST_CALL = (
    Step("dial", r"^Welcome to Thuto Clinic\.\n1\. Register\n2\. Find a clinic\n3\. Exit$"),
    Step("9", r"^That is not one of the choices\.\n1\. Register"),
    Step("1", r"^What is your name\?$"),
    Step("Thandi", r"^Thank you, Thandi\. We will remember you\.$", closes=True),
)
SECOND_CALL = (
    Step("dial", r"^Welcome back, Thandi!\n1\. Register\n2\. Find a clinic"),
    Step("2", r"^Which town are you in\?$"),
    Step("Kuruman", r"^Kuruman Clinic, 12 Main Road\. Open until 16:30\.$", closes=True),
)


class DemoFailed(Exception):
    """A reply was wrong or late."""


@click.command()
@click.option(
    "--once", is_flag=True, help="Exit after the conversation, with code 0 if it went well."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the data here; by default it is deleted.",
)
@isolation_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning"
)
def demo(once: bool, data_dir: Path | None, isolation: Level, log_level: str) -> None:
    """Play a USSD conversation with a sample app through the real sandbox, then serve it until
    Ctrl-C.

    Needs nothing else: Valkey and Node.js come with the package.
    """
    start_logging(log_level)
    if data_dir is not None:
        run_or_exit(partial(_demo, data_dir.absolute(), isolation, once=once))
    with scratch_folder("demo") as folder:
        run_or_exit(partial(_demo, folder, isolation, once=once))


async def _demo(data_dir: Path, isolation: Level, *, once: bool) -> int:
    from ..service import open_service

    screen = Screen()
    code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
            async with _open_clinics() as clinics:
                read_config = partial(_config, data_dir, isolation, clinics, _free_ports())
                async with open_service(read_config(), read_config) as service:
                    code = await _play(service.gateway_url, screen)
                    if not once and code == 0:
                        urls = f"gateway {service.gateway_url}, admin {service.admin_url}"
                        screen.note(f"serving: {urls}; Ctrl-C stops")
                        screen.note(f"try: curl {service.admin_url}/v1/apps/clinic/logs")
                        await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    return code


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _play(url: str, screen: Screen) -> int:
    try:
        async with open_phone(url, "phone", NUMBER, SERVICE_CODE) as phone:
            for call in (FIRST_CALL, SECOND_CALL):
                screen.dials(NUMBER, SERVICE_CODE)
                for step in call:
                    await _take(step, phone, screen)
    except (DemoFailed, Hung, Rejected) as error:
        screen.note(f"the demo failed: {error}")
        return 1
    screen.note("the conversation went as it should")
    return 0


async def _take(step: Step, phone: Phone, screen: Screen) -> Turn:
    if step.action != "dial":
        screen.types(step.action)
    turn = await (
        phone.dial(REPLY_SECONDS)
        if step.action == "dial"
        else phone.answer(step.action, REPLY_SECONDS)
    )
    screen.shows(turn)
    if turn.outcome != "ok":
        raise DemoFailed(f"the run for {step.action!r} ended as {turn.outcome}")
    if not re.search(step.expect, turn.text) or turn.closed != step.closes:
        end = " and the end of the session" if step.closes else ""
        raise DemoFailed(f"expected {step.expect!r}{end}, got {turn.text!r}")
    return turn


def _config(data_dir: Path, isolation: Level, clinics: int, ports: Sequence[int]) -> Config:
    config = load(SAMPLE)
    app = config.apps["clinic"]
    app = evolve(
        app,
        http=evolve(app.http, connect_to={"clinics.example.org": f"http://127.0.0.1:{clinics}"}),
    )
    config = evolve(config, data_dir=data_dir, isolation=Isolation(isolation), apps={"clinic": app})
    return config.with_listen(Address("127.0.0.1", ports[0]), Address("127.0.0.1", ports[1]))


def _free_ports() -> list[int]:
    return [port if _is_free(port) else 0 for port in PORTS]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@asynccontextmanager
async def _open_clinics() -> AsyncIterator[int]:
    """Serve the sample app's back end on loopback; give its port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, _answer, listeners))
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def _answer(stream: trio.SocketStream) -> None:
    """Answer one request: a back end of two routes needs no framework."""
    import json
    from urllib.parse import parse_qs, urlsplit

    request = b""
    with trio.move_on_after(5):
        while b"\r\n\r\n" not in request and len(request) < 1 << 16:
            data = await stream.receive_some()
            if not data:
                return
            request += data
    target = request.split(b" ")[1].decode("latin-1") if request.count(b" ") > 1 else "/"
    parts = urlsplit(target)
    town = parse_qs(parts.query).get("town", [""])[0]
    found = parts.path == "/nearest" and town
    body = json.dumps(
        {"name": f"{town} Clinic", "street": "12 Main Road", "closes": "16:30"} if found else {}
    ).encode()
    status = "200 OK" if found else "404 Not Found"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    await stream.send_all(head.encode() + body)
    await stream.aclose()
