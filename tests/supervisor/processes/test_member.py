"""A process of a server of several, and what it says to its parent."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, evolve

from supervisor.config import Config
from supervisor.config.model import Cluster
from supervisor.config.units import Count
from supervisor.errors import CannotStart
from supervisor.processes import line
from supervisor.processes.member import Member
from supervisor.processes.run import _remove_unused
from supervisor.processes.shares import Share

WHOLE = Config(data_dir=Path("/data"), cluster=Cluster(processes=Count(2)))


@define
class Parent:
    """The other end of a member's line."""

    line: socket.socket
    member: Member

    def heard(self) -> dict[str, str]:
        """What the member has said, but for signs of life."""
        words = dict[str, str]()
        while (found := line.receive(self.line)) is not None:
            words |= {k: v for k, v in line.words_of(found[0]).items() if k != "WATCHDOG"}
            for descriptor in found[1]:
                words["config"] = str(line.unpickled(descriptor) == self.member.whole)
                os.close(descriptor)
        return words

    def reload(self, number: int, config: Config) -> None:
        """Give it a config."""
        descriptor = line.pickled(config)
        assert line.send(self.line, line.RELOAD + str(number).encode(), descriptor)
        os.close(descriptor)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Parent]:
    """A member, in the place that the test asks for, and its parent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    share = Share(getattr(request, "param", 2), 2)
    member = Member(share, theirs, WHOLE, lambda: evolve(WHOLE, breakages=()), (), 1, ("", 2))
    with ours:
        yield Parent(ours, member)
        member.systemd.close()


async def test_only_a_reload_that_the_parent_asked_for_is_reported(pair: Parent) -> None:
    """One that was not, of an operator, must not be taken for its answer."""
    signals = trio.open_signal_receiver(signal.SIGHUP)
    async with trio.open_nursery() as nursery:
        with signals as hups:
            await pair.member.reloaded({"ok": False, "errors": ["bad"]})
            assert pair.heard() == {}
            nursery.start_soon(pair.member.run)
            new = evolve(WHOLE, warnings=("new",))
            pair.reload(7, new)
            assert await anext(hups) == signal.SIGHUP
            assert pair.member.read_config().warnings == ("new",)
            await pair.member.reloaded({"ok": False, "errors": ["bad", "worse"]})
            assert pair.heard() == {line.REFUSED: "bad; worse", line.NUMBER: "7"}
            await pair.member.reloaded({"ok": True})
            assert pair.heard() == {}
        nursery.cancel_scope.cancel()


async def test_a_config_that_comes_during_a_reload_gets_an_answer_of_its_own(pair: Parent) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGHUP) as hups:
            nursery.start_soon(pair.member.run)
            pair.reload(1, evolve(WHOLE, warnings=("1",)))
            await anext(hups)
            assert pair.member.read_config().warnings == ("1",)
            pair.reload(2, evolve(WHOLE, warnings=("2",)))
            await anext(hups)
            await pair.member.reloaded({"ok": True})
            assert pair.heard() == {line.APPLIED: "1"}
            assert pair.member.read_config().warnings == ("2",)
            await pair.member.reloaded({"ok": False, "errors": ["bad"]})
            assert pair.heard() == {line.REFUSED: "bad", line.NUMBER: "2"}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pair", [1], indirect=True)
async def test_the_first_hands_its_config_to_all_and_hears_what_came_of_it(pair: Parent) -> None:
    pair.member.read_config()
    result = {"ok": True, "warnings": ["its own"]}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.member.run)
        nursery.start_soon(pair.member.reloaded, result)
        while "config" not in (heard := pair.heard()):
            await trio.lowlevel.wait_readable(pair.line)
        assert heard == {line.CONFIG: "1", "config": "True"}
        line.send(pair.line, line.SPREAD + b'["process 2 starts anew"]')
        while len(result["warnings"]) < 2:
            await trio.sleep(0.01)
        assert result["warnings"] == ["its own", "process 2 starts anew"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pair", [1], indirect=True)
async def test_the_first_says_that_it_has_not_reloaded(pair: Parent) -> None:
    await pair.member.reloaded({"ok": False, "errors": ["bad", "worse"]})
    assert pair.heard() == {line.REFUSED: "bad; worse"}
    with trio.move_on_after(0):
        await pair.member.reload(trio.sleep_forever)
    assert pair.heard() == {line.REFUSED: "it was interrupted"}


async def test_a_reload_that_is_interrupted_is_answered(pair: Parent) -> None:
    """Once, and only if the parent asked for it."""

    async def interrupt() -> None:
        with trio.move_on_after(0), pair.member.answering():  # as a signal is answered
            await pair.member.reload(trio.sleep_forever)

    await interrupt()
    assert pair.heard() == {}
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGHUP) as hups:
            nursery.start_soon(pair.member.run)
            pair.reload(3, WHOLE)
            await anext(hups)
        nursery.cancel_scope.cancel()
    await interrupt()
    assert pair.heard() == {line.REFUSED: "it was interrupted", line.NUMBER: "3"}
    await interrupt()
    assert pair.heard() == {}


@pytest.mark.parametrize("pair", [1], indirect=True)
async def test_a_reload_that_ends_before_it_began_is_answered(pair: Parent) -> None:
    """It was cancelled, or has failed, while it was written down: the parent waits for nothing."""
    with trio.move_on_after(0), pair.member.answering():
        await trio.sleep_forever()
    assert pair.heard() == {line.REFUSED: "it was interrupted"}
    with pytest.raises(ZeroDivisionError), pair.member.answering():
        raise ZeroDivisionError
    assert pair.heard() == {line.REFUSED: "it was interrupted"}


async def _applied(pair: Parent) -> dict[str, Any]:
    """Reload, as the service does."""
    await trio.to_thread.run_sync(pair.member.read_config)
    return {"ok": True, "warnings": []}


@pytest.mark.parametrize("pair", [1], indirect=True)
async def test_what_was_applied_reaches_the_others_whatever_ends_the_reload(pair: Parent) -> None:
    """Nothing can come between: no moment to be cancelled in, and no descriptor is needed."""

    async def applied() -> dict[str, Any]:
        result = await _applied(pair)
        scope.cancel()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        return result

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with trio.CancelScope() as scope, pair.member.answering():
            await pair.member.reload(applied)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert scope.cancelled_caught
    assert pair.heard() == {line.CONFIG: "1", "config": "True"}


@pytest.mark.parametrize("pair", [1], indirect=True)
async def test_a_config_that_cannot_reach_the_others_is_refused(
    pair: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is applied: there is no descriptor, or no memory. Nothing is left open."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    why = "^the config cannot be given to the other processes: "
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(CannotStart, match=why + os.strerror(errno.EMFILE)):
            pair.member.read_config()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with monkeypatch.context() as patch:
        patch.setattr(pickle, "dump", fail)
        with pytest.raises(CannotStart, match=why + os.strerror(errno.ENOMEM)):
            pair.member.read_config()
    for _ in range(3):
        pair.member.read_config()
    await pair.member.reloaded({"ok": False, "errors": ["bad"]})
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_comes_without_its_descriptor_is_answered(pair: Parent) -> None:
    """This process had none to spare; or what came is no config."""
    nothing = os.memfd_create("nothing")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.member.run)
        for number, fds in ((4, []), (5, [nothing])):
            line.send(pair.line, line.RELOAD + str(number).encode(), *fds)
            while line.NUMBER not in (heard := pair.heard()):
                await trio.lowlevel.wait_readable(pair.line)
            assert heard[line.NUMBER] == str(number)
            assert "no descriptor" in heard[line.REFUSED] if not fds else "EOFError"
        line.send(pair.line, line.CLIENT + b"10.0.0.1")
        while line.LEFT not in (heard := pair.heard()):
            await trio.lowlevel.wait_readable(pair.line)
        assert heard == {line.LEFT: "10.0.0.1", line.TIMES: "1"}
        nursery.cancel_scope.cancel()
    os.close(nothing)


async def test_it_ends_when_its_parent_has_gone(pair: Parent) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.member.run)
            pair.line.close()
            assert await anext(signals) == signal.SIGTERM
            nursery.cancel_scope.cancel()


async def test_connections_are_taken_and_their_end_is_told(pair: Parent) -> None:
    (listener,) = pair.member.gateway_listeners()
    client, server = socket.socketpair()
    with client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.member.run)
            line.send(pair.line, line.CLIENT + b"10.0.0.1", server.fileno())
            server.close()
            stream = await listener.accept()
            client.send(b"hello")
            assert await stream.receive_some(10) == b"hello"
            assert pair.heard() == {}
            await stream.aclose()
            listener.gone(stream)
            listener.gone(stream)
            assert pair.heard() == {line.LEFT: "10.0.0.1", line.TIMES: "1"}
            await listener.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()
            nursery.cancel_scope.cancel()


async def test_connections_are_closed_once_no_more_are_taken(pair: Parent) -> None:
    """Both those that wait already and those that come later: nobody would answer them."""
    (listener,) = pair.member.gateway_listeners()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.member.run)
        clients = []
        for address in (b"10.0.0.1", b"10.0.0.2"):
            client, server = socket.socketpair()
            clients.append(client)
            with server:
                line.send(pair.line, line.CLIENT + address, server.fileno())
            while pair.member._receive.statistics().current_buffer_used == len(clients) - 1 == 0:
                await trio.sleep(0.001)
            await listener.aclose()
        for client in clients:
            with client:
                client.settimeout(0)
                await trio.lowlevel.wait_readable(client)
                assert client.recv(10) == b""
        left = []
        while len(left) < 2:
            await trio.lowlevel.wait_readable(pair.line)
            packet, _ = line.receive(pair.line) or (b"", [])
            left += [text for name, text in line.words_of(packet).items() if name == line.LEFT]
        assert left == ["10.0.0.1", "10.0.0.2"]
        nursery.cancel_scope.cancel()


async def test_a_parent_that_does_not_read_misses_no_end(pair: Parent) -> None:
    for n in range(1000):
        pair.member._left(f"10.0.0.{n % 4}")
    left = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.member.run)
        while left < 1000:
            await trio.lowlevel.wait_readable(pair.line)
            packet, _ = line.receive(pair.line) or (b"", [])
            left += int(line.words_of(packet).get(line.TIMES, 0))
        nursery.cancel_scope.cancel()
    assert left == 1000


def test_what_fewer_processes_leave_is_removed_but_nothing_else(tmp_path: Path) -> None:
    for place in (1, 2, 3, 4):
        folder = tmp_path / f"process-{place}"
        (folder / "search" / "acct").mkdir(parents=True)
        for name in ("lock", "server-id"):
            (folder / name).touch()
    (tmp_path / "process-4" / "of-somebody").touch()
    _remove_unused(evolve(WHOLE, data_dir=tmp_path))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["process-1", "process-2", "process-4"]
    assert [one.name for one in (tmp_path / "process-4").iterdir()] == ["of-somebody"]
    assert (tmp_path / "process-2" / "search" / "acct").is_dir()
