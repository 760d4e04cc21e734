"""The parent of several processes: real ones, that follow a script (family.py)."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from supervisor.processes import line
from supervisor.processes.children import Child

from .family import family, note, say, serve, serving


def test_a_process_that_dies_is_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    with family(tmp_path, 3) as one:
        one.noted("all are ready")
        for nth in (1, 2):
            os.kill(one.pid_of("process 2", nth), signal.SIGKILL)
            again = one.logged("process 2 ended (killed by SIGKILL); it starts again in ", nth)
            one.logged("process 2 serves again", nth)
        assert [text.rsplit(" in ", 1)[1] for text in again] == ["0.1 s", "0.2 s"]
        clients = [one.connect() for _ in range(6)]
        assert [name for _, name in clients] == ["process 1", "process 2", "process 3"] * 2
        for client, _ in clients:
            client.close()
        os.kill(one.pid, signal.SIGTERM)
        assert one.ended() == 0
        starts = Counter(text.split(" starts")[0] for text in one.noted(" starts as "))
        assert starts == {"process 1": 1, "process 2": 3, "process 3": 1}


@pytest.mark.parametrize(("owner", "name"), [(os, "fork"), (socket, "socketpair")])
def test_a_host_that_has_nothing_to_spare_ends_nobody(
    tmp_path: Path, owner: ModuleType, name: str
) -> None:
    def short(_: ModuleType) -> None:
        real = getattr(owner, name)

        def scarce(*args: int) -> object:
            if (tmp_path / "short").exists():
                raise OSError(errno.EAGAIN, "nothing to spare")
            return real(*args)

        setattr(owner, name, scarce)

    with family(tmp_path, 2, change=short) as one:
        one.noted("all are ready")
        (tmp_path / "short").touch()
        os.kill(one.pid_of("process 2"), signal.SIGKILL)
        said = one.logged("process 2 cannot start: nothing to spare; again in ", 2)
        assert [text.rsplit(" in ", 1)[1] for text in said[:2]] == ["0.2 s", "0.4 s"]
        client, _ = one.connect()  # the other serves on
        client.close()
        (tmp_path / "short").unlink()
        one.noted("process 2 starts", 2)
        os.kill(one.pid, signal.SIGTERM)  # is not blocked
        assert one.ended() == 0


def test_connections_are_spread_evenly_and_so_are_those_that_follow(tmp_path: Path) -> None:
    def script(name: str, theirs: socket.socket) -> int:
        return serve(name, theirs, "well", left=lambda: note(tmp_path / "notes", f"{name}: left"))

    with family(tmp_path, 3, script) as one:
        one.noted("all are ready")
        clients = [one.connect() for _ in range(9)]
        assert Counter(name for _, name in clients) == {f"process {n}": 3 for n in (1, 2, 3)}
        for client, name in clients:
            if name == "process 2":
                client.close()
        one.noted("process 2: left", 3)
        # when the parent has heard it, all that come are for it
        more = []
        while Counter(name for _, name in more)["process 2"] < 3:
            more.append(one.connect())
            assert len(more) < 12
        for client, _ in (*clients, *more):
            client.close()


def test_clients_wait_while_no_process_serves(tmp_path: Path) -> None:
    def slow(name: str, theirs: socket.socket) -> int:
        if (tmp_path / "go").exists() or not (tmp_path / "hold").exists():
            return serving(name, theirs)
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        return serving(name, theirs)

    with family(tmp_path, 2, slow) as one:
        one.noted("all are ready")
        (tmp_path / "hold").touch()
        for name in ("process 1", "process 2"):
            os.kill(one.pid_of(name), signal.SIGKILL)
            one.logged(f"{name} ended")
        with socket.create_connection(("127.0.0.1", one.port)) as client:
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
            (tmp_path / "go").touch()
            client.settimeout(60)
            assert client.recv(100).startswith(b"process ")


def test_nothing_listens_before_all_are_ready(tmp_path: Path) -> None:
    def held(name: str, theirs: socket.socket) -> int:
        while name == "process 2" and not (tmp_path / "go").exists():
            time.sleep(0.005)
        return serving(name, theirs)

    with family(tmp_path, 2, held) as one:
        one.noted("process 2 starts")
        with pytest.raises(ConnectionRefusedError):
            one.connect()
        (tmp_path / "go").touch()
        one.noted("all are ready")
        one.connect()[0].close()


def test_the_first_process_starts_alone_and_what_keeps_it_ends_all(tmp_path: Path) -> None:
    def bad(name: str, theirs: socket.socket) -> int:
        return serving(name, theirs) if name == "the store" else 3

    with family(tmp_path, 4, bad, has_store=True) as one:
        assert one.ended() == 3
        assert [text.split(" starts")[0] for text in one.noted(" starts as ")] == [
            "the store",
            "process 1",
        ]
        assert one.noted("the store ends")


def test_the_store_starts_first_and_ends_last(tmp_path: Path) -> None:
    def lingering(name: str, theirs: socket.socket) -> int:
        code = serving(name, theirs)
        if name == "process 2":
            time.sleep(0.2)
        return code

    with family(tmp_path, 2, lingering, has_store=True) as one:
        one.noted("all are ready")
        os.kill(one.pid, signal.SIGTERM)
        assert one.ended() == 0
        told = one.notes.read_text().splitlines()
        assert told[0].startswith("the store starts")
        assert told[-3:] == ["process 1 ends", "process 2 ends", "the store ends"]
        with pytest.raises(ConnectionRefusedError):
            one.connect()


def test_a_process_that_says_nothing_is_killed(tmp_path: Path) -> None:
    def hung(name: str, theirs: socket.socket) -> int:
        if name == "process 2" and not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            say(theirs, READY="1")
            time.sleep(60)
        return serving(name, theirs)

    def soon(module: ModuleType) -> None:
        module.SILENT_SECONDS, module.TICK = 1.5, 0.1

    with family(tmp_path, 2, hung, change=soon) as one:
        one.logged("process 2 said nothing for 2 s; killing it")
        one.noted("process 2 starts", 2)
        assert len(one.noted("process 1 starts")) == 1


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    def stubborn(name: str, theirs: socket.socket) -> int:
        if name == "process 1":
            return serving(name, theirs)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(theirs, READY="1")
        time.sleep(60)
        return 0

    def soon(module: ModuleType) -> None:
        module.STOP_MORE = -0.9  # with a drain of 1 s

    with family(tmp_path, 2, stubborn, change=soon) as one:
        one.noted("all are ready")
        os.kill(one.pid, signal.SIGTERM)
        assert one.ended() == 1
        one.logged("process 2 does not end; killing it")


def draining(folder: Path, name: str, theirs: socket.socket) -> int:
    """The second drains when it is told to end, until there is a file."""
    if name == "process 1":
        return reloading(folder, name, theirs)

    def drain(*_: object) -> None:
        note(folder / "notes", f"{name} is told to end")
        say(theirs, STOPPING="1")

    signal.signal(signal.SIGTERM, drain)
    say(theirs, READY="1")
    parent = os.getppid()
    while not (folder / "go").exists() and os.getppid() == parent:
        time.sleep(0.005)
    return 0


def test_a_process_that_somebody_else_ends_gets_no_more_connections(tmp_path: Path) -> None:
    def script(name: str, theirs: socket.socket) -> int:
        return draining(tmp_path, name, theirs)

    with family(tmp_path, 2, script) as one:
        one.noted("all are ready")
        os.kill(one.pid_of("process 2"), signal.SIGTERM)
        one.noted("table: ['ready', 'stopping']")
        clients = [one.connect() for _ in range(3)]
        assert [name for _, name in clients] == ["process 1"] * 3
        for client, _ in clients:
            client.close()
        os.kill(one.pid, signal.SIGTERM)
        one.noted("process 1 ends")
        (tmp_path / "go").touch()
        assert one.ended() == 0
        # a second time would have ended its runs
        assert len(one.noted("process 2 is told to end")) == 1


def test_a_process_that_somebody_else_ends_has_its_time_and_no_more(tmp_path: Path) -> None:
    def script(name: str, theirs: socket.socket) -> int:
        return draining(tmp_path, name, theirs)

    def soon(module: ModuleType) -> None:
        module.STOP_MORE = -0.9  # with a drain of 1 s

    with family(tmp_path, 2, script, change=soon) as one:
        one.noted("all are ready")
        os.kill(one.pid_of("process 2"), signal.SIGTERM)
        one.logged("process 2 does not end; killing it")
        one.noted("process 2 starts", 2)


def test_being_asked_to_end_again_gives_no_more_time() -> None:
    child = Child("process 1", lambda _: 0)
    child.stop(100.0)
    child.stop(200.0)
    assert child.kill_at == 100.0
    child.stop(50.0)
    assert child.kill_at == 50.0


def reloading(folder: Path, name: str, theirs: socket.socket) -> int:
    """The first hands out a config when it gets SIGHUP; the third refuses it, the first time."""

    def heard(packet: bytes, fds: list[int]) -> None:
        if packet == b"HUP":
            descriptor = os.memfd_create("config")
            os.write(descriptor, b"new")
            socket.send_fds(theirs, [f"{line.CONFIG}=1\n".encode()], [descriptor])
        elif packet[:1] == line.RELOAD:
            note(folder / "notes", f"{name} has {os.pread(fds[0], 100, 0).decode()}")
            number = packet[1:].decode()
            refused = {line.REFUSED: "it is bad", line.NUMBER: number}
            say(theirs, **refused if name == "process 3" else {line.APPLIED: number})
        elif packet[:1] == line.SPREAD:
            note(folder / "notes", f"spread: {json.loads(packet[1:])}")
        elif packet[:1] == line.TABLE:
            states = [row["state"] for row in json.loads(packet[1:])]
            note(folder / "notes", f"table: {states}")

    return serve(name, theirs, "well", heard)


def test_a_reload_goes_through_the_first_process_to_all_others(tmp_path: Path) -> None:
    def script(name: str, theirs: socket.socket) -> int:
        return reloading(tmp_path, name, theirs)

    with family(tmp_path, 3, script) as one:
        one.noted("all are ready")
        os.kill(one.pid, signal.SIGHUP)
        one.noted("process 2 has new")
        one.noted("process 3 has new")
        # the one that refused is not left with the old config
        told = "spread: ['process 3 starts anew, since it refused the config: it is bad']"
        assert one.noted("spread: ") == [told]
        one.noted("process 3 starts", 2)
        one.noted("table: ['ready', 'ready', 'ready']", 2)
        assert len(one.noted("process 2 starts")) == 1
