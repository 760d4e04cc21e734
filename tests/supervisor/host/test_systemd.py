"""The service manager's protocol, with the test in systemd's place: a real `jsbox serve`, a real
notify socket, real listening sockets.
"""

from __future__ import annotations

import array
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervisor.config.units import Address
from supervisor.host.systemd import Systemd, from_environment

from ...gateway_client import PATIENCE, connect
from ...programs import JSBOX, READY, free_ports, systemd_analyze
from ...service import ECHO, Folder

EXTRAS = Path(__file__).parents[3] / "supervisor" / "extras"
# As systemd passes them: from descriptor 3 on, and with the process id that they are meant for.
PASSING = 'export LISTEN_PID=$$; exec "$@" '


class StandIn:
    """The notify socket, and the store of descriptors."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.words: list[dict[str, str]] = []
        self.stored: dict[str, int] = {}

    def read(self, seconds: float) -> dict[str, str]:
        self.socket.settimeout(seconds)
        data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(32))
        words = dict(line.split("=", 1) for line in data.decode().splitlines())
        for _, _, rights in ancillary:
            (descriptor,) = array.array("i", rights)
            if words["FDNAME"] in self.stored:  # systemd keeps no socket twice
                os.close(descriptor)
            else:
                self.stored[words["FDNAME"]] = descriptor
        self.words.append(words)
        return words

    def until(self, name: str, seconds: float = PATIENCE) -> dict[str, str]:
        deadline = time.monotonic() + seconds
        while True:
            words = self.read(max(deadline - time.monotonic(), 0.01))
            if name in words:
                return words

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.stored.values():
            os.close(descriptor)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[StandIn]:
    manager = StandIn(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    gateway, admin = free_ports(2)
    folder.text = (
        f'version = 1\n[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "127.0.0.1:{admin}"\n'
    )
    folder.app("phone", ECHO)
    return folder


@contextmanager
def started(
    folder: Folder, systemd: StandIn, watchdog: str = "0"
) -> Iterator[subprocess.Popen[str]]:
    """A server that systemd starts: with what it had stored, if anything."""
    env = os.environ | {"NOTIFY_SOCKET": systemd.path}
    if watchdog != "0":
        env["WATCHDOG_USEC"] = watchdog
    command = PASSING
    if systemd.stored:
        redirects = " ".join(
            f"{3 + place}<&{descriptor}" for place, descriptor in enumerate(systemd.stored.values())
        )
        command += redirects
        env |= {"LISTEN_FDS": str(len(systemd.stored)), "LISTEN_FDNAMES": ":".join(systemd.stored)}
    with (folder.path / "log").open("a") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", command, "bash", *JSBOX, "serve", "-c", str(folder.config)],
            env=env,
            stderr=log,
            text=True,
            start_new_session=True,
            pass_fds=list(systemd.stored.values()),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()


def folder_port(folder: Folder, name: str) -> int:
    return int(folder.text.split(f'{name} = "127.0.0.1:')[1].split('"')[0])


def test_it_says_ready_reloading_and_stopping(folder: Folder, systemd: StandIn) -> None:
    """READY when both ports listen, RELOADING with the monotonic clock and READY round a reload,
    the reason in STATUS, STOPPING at the end.
    """
    with started(folder, systemd) as process:
        assert "1 apps; gateway ws://127.0.0.1:" in systemd.until("READY")["STATUS"]
        log = (folder.path / "log").read_text
        while not READY.search(log()):
            time.sleep(0.01)
        (folder.path / "jsbox.toml").write_text(folder.text + "[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        assert int(systemd.until("RELOADING")["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert "the last reload was refused" in systemd.until("READY")["STATUS"]
        (folder.path / "jsbox.toml").write_text(folder.text)
        process.send_signal(signal.SIGHUP)
        assert "refused" not in systemd.until("READY")["STATUS"]
        process.send_signal(signal.SIGTERM)
        assert "draining" in systemd.until("STOPPING")["STATUS"]
        assert process.wait(PATIENCE) == 0


def test_the_watchdog_hears_of_it(folder: Folder, systemd: StandIn) -> None:
    """Again and again, as long as the event loop runs; a stopped process is silent."""
    with started(folder, systemd, watchdog="600000") as process:
        systemd.until("READY")
        for _ in range(4):
            systemd.until("WATCHDOG")
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            for _ in range(10):
                systemd.until("WATCHDOG", 1.0)
        process.send_signal(signal.SIGCONT)


async def test_the_watchdog_hears_of_it_in_time(
    systemd: StandIn, autojump_clock: MockClock
) -> None:
    """Three times in each interval."""
    manager = from_environment({"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "600000"})
    with trio.move_on_after(1.9):
        await manager.show_life()
    heard = 0
    with suppress(TimeoutError):
        while True:
            heard += systemd.read(0.01) == {"WATCHDOG": "1"}
    assert heard == 10


async def test_a_restart_refuses_no_connection(folder: Folder, systemd: StandIn) -> None:
    """The sockets outlive the process: clients that connect meanwhile wait for the next one, on
    both ports.
    """
    refused: list[OSError] = []
    stop = threading.Event()
    with started(folder, systemd) as first:
        systemd.until("READY")
        assert sorted(systemd.stored) == ["listen.admin", "listen.gateway"]
        ports = [folder_port(folder, name) for name in ("gateway", "admin")]

        def knock() -> None:
            while not stop.is_set():
                for port in ports:
                    try:
                        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                    except OSError as error:
                        refused.append(error)
                time.sleep(0.05)  # what nobody takes yet must have room in the sockets' queues

        knocking = threading.Thread(target=knock)
        knocking.start()
        try:
            await trio.sleep(0.3)
            first.send_signal(signal.SIGTERM)
            assert first.wait(PATIENCE) == 0
            waiting = socket.create_connection(("127.0.0.1", ports[1]), PATIENCE)
            waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with started(folder, systemd):
                systemd.until("READY")
                waiting.settimeout(PATIENCE)
                assert b"200" in waiting.recv(100)
                waiting.close()
                async with connect(f"ws://127.0.0.1:{ports[0]}/v1") as client:
                    _, (reply,) = await client.say("hi", "new")
                assert reply["content"] == "you said hi"
        finally:
            stop.set()
            knocking.join()
    assert refused == []


def test_an_address_that_left_the_config_is_given_back(folder: Folder, systemd: StandIn) -> None:
    """What systemd holds and nobody listens at is closed, and removed from its store."""
    with started(folder, systemd):
        systemd.until("READY")
    port = free_ports(1)[0]
    lines = folder.text.splitlines()
    lines[2] = f'gateway = "127.0.0.1:{port}"'
    folder.text = "\n".join(lines) + "\n"
    with started(folder, systemd):
        systemd.until("READY")
    removed = [words["FDNAME"] for words in systemd.words if "FDSTOREREMOVE" in words]
    assert removed == ["listen.gateway"]


def test_only_sockets_that_are_meant_for_us_are_taken() -> None:
    """LISTEN_PID and WATCHDOG_PID name another process: then they are ignored."""
    manager = from_environment(
        {"LISTEN_PID": "1", "LISTEN_FDS": "2", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    )
    assert manager.take(Address("127.0.0.1", 80)) == []
    assert manager.watchdog == 0.0


def test_without_a_manager_nothing_happens() -> None:
    """And one that went away is no error."""
    Systemd().ready("fine")
    Systemd("/nonexistent/notify").ready("fine")


async def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    """What finds no room waits, in order and bounded, and is sent when there is some; the loop is
    not blocked meanwhile.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        manager = Systemd(str(tmp_path / "notify"))
        descriptor = os.open(tmp_path, os.O_RDONLY)
        began = time.thread_time()
        for number in range(2000):
            manager.tell(STATUS=f"{number}")
        manager.keep("listen.gateway", descriptor)
        manager.ready("fine\nMAINPID=1 \ud83d " + "x" * 100_000)
        os.close(descriptor)  # the manager has its own
        assert time.thread_time() - began < 1
        messages: list[bytes] = []
        given = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.show_life)
            with trio.fail_after(PATIENCE):
                while not messages or not messages[-1].startswith(b"READY=1"):
                    await trio.lowlevel.wait_readable(end)
                    data, ancillary, _, _ = end.recvmsg(1 << 16, socket.CMSG_SPACE(16))
                    messages.append(data)
                    given += [array.array("i", rights)[0] for _, _, rights in ancillary]
            nursery.cancel_scope.cancel()
        numbers = [int(message[len("STATUS=") :]) for message in messages[:-2]]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 1999
        assert messages[-2] == b"FDSTORE=1\nFDNAME=listen.gateway\n"
        assert messages[-1].startswith(b"READY=1\nSTATUS=fine MAINPID=1 \\ud83d xxx")
        assert len(messages[-1].splitlines()) == 2
        (one,) = given
        os.close(one)


async def test_what_a_parent_of_ours_waits_for_is_never_lost() -> None:
    """However much else has to wait; what is lost is the oldest of that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        manager = Systemd(socket=theirs)
        theirs.settimeout(0)
        filler = 0
        while not manager._waiting:
            manager.tell(STATUS=f"{(filler := filler + 1)}")
        manager.say({"JSBOX_CONFIG": "1"}, [os.memfd_create("config")])
        for number in range(200):
            manager.tell(STATUS=f"later {number}")
        ours.settimeout(0)
        found: list[bytes] = []
        given: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.show_life)
            with trio.fail_after(PATIENCE):
                while b"STATUS=later 199\n" not in found:
                    await trio.lowlevel.wait_readable(ours)
                    data, fds, _, _ = socket.recv_fds(ours, 1 << 16, 4)
                    found.append(data)
                    given += fds
            nursery.cancel_scope.cancel()
        waited = found[filler - 1 :]
        assert waited[0] == b"JSBOX_CONFIG=1\n"
        assert waited[1:] == [b"STATUS=later %d\n" % number for number in range(137, 200)]
        assert len(given) == 1
        os.close(given[0])
        manager.close()


class Refusing(socket.socket):
    """Takes nothing for now: the kernel has no memory, or too many descriptors are under way."""

    refuses: int = errno.ENOBUFS

    def sendmsg(self, *args: Any) -> int:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        return super().sendmsg(*args)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS])
async def test_what_the_kernel_cannot_send_for_the_moment_waits(
    number: int, autojump_clock: MockClock
) -> None:
    """A parent is not taken for gone; what waits when it has gone is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    refusing = Refusing(fileno=theirs.detach())
    refusing.refuses = number
    manager = Systemd(socket=refusing)
    manager.say({"JSBOX_CONFIG": "1"}, [os.memfd_create("config")])
    manager.say({"JSBOX_CONFIG": "2"}, [os.memfd_create("config")])
    refusing.refuses = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.show_life)
        for n in (1, 2):
            await trio.lowlevel.wait_readable(ours)
            data, fds, _, _ = socket.recv_fds(ours, 1 << 16, 4)
            assert data == b"JSBOX_CONFIG=%d\n" % n
            os.close(*fds)
        refusing.refuses = number
        for _ in range(2):
            manager.say({"JSBOX_CONFIG": "3"}, [os.memfd_create("config")])
        refusing.refuses = 0
        ours.close()  # `show_life` ends with it; nothing is left open
    assert not manager._waiting


async def test_the_watchdog_is_told_without_descriptors_to_spare(tmp_path: Path) -> None:
    """Its socket is held from the start; what cannot be duplicated is not given to hold."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        manager = Systemd(str(tmp_path / "notify"), watchdog=10.0)
        taken = []
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            manager.keep("listen.gateway", 0)
            manager.tell(WATCHDOG="1")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in taken:
                os.close(descriptor)
        assert end.recv(100) == b"WATCHDOG=1\n"


def test_the_unit_is_one(tmp_path: Path) -> None:
    """systemd reads it without a complaint, except about a type that it may be too old for and a
    binary that is not installed here.
    """
    unit = tmp_path / "jsbox.service"
    unit.write_text(
        (EXTRAS / "jsbox.service").read_text().replace("/usr/local/bin/jsbox", sys.executable)
    )
    done = subprocess.run(
        [systemd_analyze(), "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "notify-reload" not in line]
    assert (done.returncode, [line for line in said if "jsbox.service" in line]) == (0, [])
