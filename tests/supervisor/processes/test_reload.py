"""What systemd hears of a server of several processes, and what becomes of a SIGHUP whatever the
first process does with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field

from supervisor.processes import line
from supervisor.processes.children import Child
from supervisor.processes.spreading import ANSWER_SECONDS, Order, Spreading

from .family import family, note, say, serve, serving


@define
class StandIn:
    """systemd, as far as it listens."""

    path: str
    _socket: socket.socket
    heard: list[str] = field(factory=list)

    def hear(self, text: str) -> None:
        """Wait until something is said with that in it."""
        deadline = time.monotonic() + 60
        while text not in "".join(self.heard):
            assert time.monotonic() < deadline, self.heard
            packet, fds, _, _ = socket.recv_fds(self._socket, 65536, 4)
            self.heard.append(packet.decode())
            for each in fds:
                os.close(each)

    @property
    def states(self) -> list[str]:
        """READY and RELOADING, in order."""
        words = [one.partition("=")[0] for one in self.heard]
        return [word for word in words if word in {"READY", "RELOADING"}]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[StandIn]:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(60)
        yield StandIn(address, listening)


def test_systemd_hears_of_the_whole(tmp_path: Path, systemd: StandIn) -> None:
    """READY once all are; signs of life from the parent; the gateway's socket is kept."""

    def held(name: str, theirs: socket.socket) -> int:
        while name == "process 2" and not (tmp_path / "go").exists():
            time.sleep(0.005)
        return serving(name, theirs)

    with family(tmp_path, 2, held, notify=systemd.path) as one:
        one.noted("process 2 starts")
        systemd.hear("WATCHDOG=1")
        assert systemd.states == []
        (tmp_path / "go").touch()
        systemd.hear("FDSTORE=1\nFDNAME=listen.gateway")
        systemd.hear("READY=1\nSTATUS=2 of 2 processes serve; process 1 is well")
        os.kill(one.pid, signal.SIGTERM)
        systemd.hear("STOPPING=1")
        assert one.ended() == 0


def handing_out(folder: Path, dies: int, name: str, theirs: socket.socket) -> int:
    """The first hands out a config when it gets SIGHUP, but dies of it so many times: after it has
    said that it has reloaded.
    """

    def heard(packet: bytes, _: list[int]) -> None:
        if packet == b"HUP":
            note(folder / "notes", f"{name} reloads")
            say(theirs, READY="1", STATUS="reloaded")
            if (folder / "notes").read_text().count(f"{name} reloads") <= dies:
                os._exit(1)
            descriptor = os.memfd_create("config")
            socket.send_fds(theirs, [f"{line.CONFIG}=1\n".encode()], [descriptor])
            os.close(descriptor)
        elif packet[:1] == line.RELOAD:
            note(folder / "notes", f"{name} has it")
            say(theirs, **{line.APPLIED: packet[1:].decode()})

    return serve(name, theirs, "started", heard)


@pytest.mark.parametrize(
    ("dies", "orders", "end"), [(0, 1, "reloaded"), (1, 2, "reloaded"), (9, 2, "started")]
)
def test_a_reload_is_not_lost_with_the_first_process(
    tmp_path: Path, systemd: StandIn, dies: int, orders: int, end: str
) -> None:
    """It is begun again, once; systemd hears that it is done when it is, or given up."""

    def script(name: str, theirs: socket.socket) -> int:
        return handing_out(tmp_path, dies, name, theirs)

    with family(tmp_path, 2, script, notify=systemd.path) as one:
        systemd.hear("READY=1")
        systemd.heard.clear()
        os.kill(one.pid, signal.SIGHUP)
        systemd.hear("READY=1")
        assert systemd.heard[-1] == f"READY=1\nSTATUS=2 of 2 processes serve; {end}\n"
        assert systemd.states == ["RELOADING"] * orders + ["READY"]
        assert len(one.noted("process 1 reloads", orders)) == orders
        assert one.notes.read_text().count("process 2 has it") == (end == "reloaded")
        if end == "started":
            one.logged("process 1 ended during a reload again: the old config stays")


def test_a_reload_that_the_first_process_refuses_is_done(tmp_path: Path, systemd: StandIn) -> None:
    def script(name: str, theirs: socket.socket) -> int:
        def heard(packet: bytes, _: list[int]) -> None:
            if packet == b"HUP":
                say(theirs, READY="1", STATUS="refused")
                say(theirs, **{line.REFUSED: "it is bad"})

        return serve(name, theirs, "started", heard)

    with family(tmp_path, 2, script, notify=systemd.path) as one:
        systemd.hear("READY=1")
        for _ in range(2):  # the next one is a new one
            systemd.heard.clear()
            os.kill(one.pid, signal.SIGHUP)
            systemd.hear("READY=1\nSTATUS=2 of 2 processes serve; refused")
            assert systemd.states == ["RELOADING", "READY"]


def test_a_process_that_drains_is_not_waited_for(tmp_path: Path, systemd: StandIn) -> None:
    """It gives no answer to the config, and has it when it starts again."""

    def script(name: str, theirs: socket.socket) -> int:
        def heard(packet: bytes, _: list[int]) -> None:
            if packet == b"HUP":
                descriptor = os.memfd_create("config")
                socket.send_fds(theirs, [f"{line.CONFIG}=1\n".encode()], [descriptor])
                os.close(descriptor)
            elif packet[:1] == line.RELOAD:
                say(theirs, STOPPING="1")
            elif packet[:1] == line.SPREAD:
                note(tmp_path / "notes", f"{name} hears that all have it")

        return serve(name, theirs, "started", heard)

    with family(tmp_path, 2, script, notify=systemd.path) as one:
        systemd.hear("READY=1")
        systemd.heard.clear()
        os.kill(one.pid, signal.SIGHUP)
        systemd.hear("READY=1")
        one.noted("process 1 hears that all have it")
        os.kill(one.pid_of("process 2"), 0)  # it still drains


def test_a_signal_that_comes_during_a_reload_is_obeyed_after_it() -> None:
    order = Order(is_wanted=True)
    assert order.is_due(0)
    order.is_wanted = True
    assert not order.is_due(1)
    order.answered()
    assert order.is_due(2)
    assert order.is_open
    order.answered()
    assert not order.is_due(3)
    assert not order.is_open


def test_a_process_that_never_answers_is_sent_the_next_signal() -> None:
    order = Order(is_wanted=True)
    assert order.is_due(0)
    assert not order.is_due(ANSWER_SECONDS + 1)
    order.is_wanted = True
    assert order.is_due(ANSWER_SECONDS + 1)


def test_what_came_of_an_older_config_is_no_answer() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first, second = (Child(f"process {n}", lambda _: 0, "ready") for n in (1, 2))
    second.line = ours
    done, ended = list[bool](), list[Child]()
    spreading = Spreading([first, second], ended.append, lambda: done.append(True))
    with ours, theirs:
        for _ in range(2):
            spreading.take(first, [os.memfd_create("config")])
        numbers = [int(theirs.recv(100)[1:]) for _ in range(2)]
        spreading.applied(second, numbers[0])
        spreading.refused(second, numbers[0], "it is bad")
        assert (done, ended) == ([], [])
        spreading.applied(second, numbers[1])
        assert (done, ended) == ([True], [])
        os.close(spreading.config)


def test_a_config_that_comes_without_its_descriptor_is_waited_for_no_longer() -> None:
    """The parent had none to spare: who sent it hears so, and what is kept stays."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first, second = (Child(f"process {n}", lambda _: 0, "ready") for n in (1, 2))
    first.line = ours
    done = list[bool]()
    spreading = Spreading([first, second], lambda _: None, lambda: done.append(True))
    with ours, theirs:
        assert spreading.take(first, []) is None
        text = "the parent had no descriptor to spare: only process 1 has this config"
        assert theirs.recv(1000) == line.SPREAD + json.dumps([text]).encode()
    assert (done, spreading.config, spreading.to) == ([True], -1, {})
