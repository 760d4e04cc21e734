"""Which process gets a connection."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator

import pytest
from attrs import define

from supervisor.processes import handover, line
from supervisor.processes.children import Child
from supervisor.processes.handover import Handover


@define
class Port:
    """A port whose connections go to children that only keep them."""

    listener: socket.socket
    children: list[Child]
    ends: list[socket.socket]
    selector: selectors.BaseSelector
    handover: Handover

    def connect(self) -> socket.socket:
        """A client, accepted and handed over."""
        client = socket.create_connection(self.listener.getsockname())
        client.settimeout(10)
        for key, _ in self.selector.select(10):
            key.data()
        return client

    def taken(self) -> list[int]:
        """How many each child has."""
        return [child.clients.total() for child in self.children]


@pytest.fixture
def port() -> Iterator[Port]:
    children, ends = [Child(f"process {n}", lambda _: 0) for n in (1, 2, 3)], []
    selector = selectors.DefaultSelector()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        for child in children:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child.started(os.getpid(), ours, 0.0)
            child.up(0.0)
            ends.append(theirs)
        one = Handover(selector, [listener], children, per_address=4)
        one.listen(100, lambda _: None)
        one.follow(is_open=True)
        yield Port(listener, children, ends, selector, one)
        one.close()
    for child in children:
        child.close()
    for end in ends:
        end.close()
    selector.close()


def test_connections_that_end_at_once_take_turns(port: Port) -> None:
    """As those of Junebug do, which posts each message by itself."""
    for _ in range(6):
        port.connect().close()
        for child in port.children:
            for address in [*child.clients]:
                child.left(address)
    got = []
    for end in port.ends:
        while (heard := line.receive(end)) is not None:
            got.append(heard[0])
            os.close(heard[1][0])
    assert got == [line.CLIENT] * 6
    assert [child.served for child in port.children] == [4, 5, 6]


def test_a_process_that_cannot_take_more_now_is_passed_over(port: Port) -> None:
    packet = line.TABLE + bytes(10_000)
    while port.children[0].send(packet):
        pass
    clients = [port.connect() for _ in range(4)]
    assert port.taken() == [0, 2, 2]
    for client in clients:
        client.close()


def test_one_address_has_its_bound_in_all_processes_together(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["10.0.0.1"] * 5 + ["10.0.0.2"] * 2)
    monkeypatch.setattr(handover, "counted_as", lambda _: next(names))
    clients = [port.connect() for _ in range(7)]
    assert clients[4].recv(100).startswith(b"HTTP/1.1 503 ")
    assert port.taken() == [2, 2, 2]
    # those of one address are not all with one process, although the total would allow it
    assert [child.clients["10.0.0.2"] for child in port.children] == [0, 1, 1]
    for client in clients:
        client.close()


def test_nobody_serves_so_clients_wait(port: Port) -> None:
    for child in port.children:
        child.state = "starting"
    port.handover.follow(is_open=True)
    with socket.create_connection(port.listener.getsockname()) as client:
        assert not port.selector.get_map()
        port.children[1].state = "ready"
        port.handover.follow(is_open=True)
        for key, _ in port.selector.select(10):
            key.data()
        assert port.taken() == [0, 1, 0]
        client.close()


def test_a_host_that_is_out_of_descriptors_rests(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out(_: socket.socket) -> tuple[socket.socket, object]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", out)
        client = port.connect()
    assert port.taken() == [0, 0, 0]
    port.handover.follow(is_open=True)
    assert not port.selector.get_map()
    port.handover.rests_until = 0.0
    port.handover.follow(is_open=True)
    port.selector.select(10)[0][0].data()
    assert port.taken() == [1, 0, 0]
    client.close()
