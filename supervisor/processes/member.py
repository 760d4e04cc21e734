"""One process of a server of several, seen from within: what its parent gives it, and tells it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from resources.fence import cause_of, fence
from resources.kernel import end_in

from ..config import Config
from ..errors import CannotStart
from ..host.systemd import Systemd
from ..ports.handed import HandedListener, Place
from ..ports.listening import BACKLOG
from ..store.holding import host_id
from ..store.ownership import LOCK
from . import line
from .parent import STOP_MORE
from .shares import Share

HANDED_MAX = 1024  # connections that wait to be served
LIFE_SECONDS = 30.0  # between two signs of life, at most
RETRY_SECONDS = 1.0  # between two attempts to tell a parent that is slow
SPREAD_SECONDS = 120.0  # that the others have to apply a config

log = logging.getLogger(__name__)


@define(eq=False)
class Member:
    """Made in the child, before its service.

    Attributes:
        share: Which process this is.
        systemd: The parent, which stands in for systemd.
        whole: The config of the service as the parent gave it last, or as this process has read it.
        admin: The sockets of the admin port, only of the first process.
        admin_port: Where it is.
        gateway: The gateway's address, as `getsockname` gives it.
        table: The processes, as the parent says; only the first is told.
    """

    share: Share
    _line: socket.socket
    whole: Config
    _read_file: Callable[[], Config]
    admin: Sequence[socket.socket]
    admin_port: int
    gateway: tuple[Any, ...]
    systemd: Systemd = field(init=False)
    table: Sequence[dict[str, Any]] = field(default=(), init=False)
    _spread: trio.Event = field(factory=trio.Event, init=False)
    _problems: Sequence[str] = field(default=(), init=False)
    # The config read last from the file, and the same as the parent is given it: a reload that is
    # applied needs nothing more then, and no moment, to reach the others.
    _given: Config | None = field(default=None, init=False)
    _packed: int = field(default=-1, init=False)
    _reports: int = field(default=0, init=False)  # of the first, on its reloads
    # Numbers of the parent's configs: the one given last, read last, answered last.
    _number: int = field(default=0, init=False)
    _taken: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _gone: Counter[str] = field(factory=Counter, init=False)  # clients that the parent still counts
    _send: trio.MemorySendChannel[tuple[int, str]] = field(init=False)
    _receive: trio.MemoryReceiveChannel[tuple[int, str]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._line.settimeout(0)
        self.systemd = Systemd(watchdog=LIFE_SECONDS, socket=self._line)
        self._send, self._receive = trio.open_memory_channel(HANDED_MAX)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that has the admin port, and reads the config for all."""
        return self.share.place == 1

    @property
    def audit(self) -> Path:
        """Where the audit log of the service is: all processes write to it."""
        return self.whole.data_dir

    @property
    def first(self) -> str:
        """The id of the first process among the servers that share the store."""
        return self.hosts().get(1, "")

    def hosts(self) -> dict[int, str]:
        """The ids of all processes among the servers that share the store, by their place."""
        found = {}
        for place in range(1, self.share.count + 1):
            folder = Share(place, self.share.count).folder(self.whole.data_dir)
            if (folder / LOCK).exists():  # it has started once
                found[place] = host_id(folder)
        return found

    def config(self) -> Config:
        """What this process starts with."""
        return self.share.config(self.whole)

    def read_config(self) -> Config:
        """The config of a reload: of the first process from the file, of the others from it.

        Raises:
            InvalidConfig: It lists everything that is wrong.
            CannotStart: The others could not be given it.
        """
        if not self.is_first:
            # In this order, since this is a thread: if a config comes now, it is at worst taken for
            # the one before, and read again.
            self._taken = self._number
            return self.share.config(self.whole)
        given = self._read_file()
        try:
            packed = line.pickled(given)
        except OSError as error:
            text = f"the config cannot be given to the other processes: {error.strerror}"
            raise CannotStart(text) from error
        self._forget()
        self._given, self._packed = given, packed
        return self.share.config(given)

    def _forget(self) -> None:
        """Forget the config read last."""
        if self._packed != -1:
            os.close(self._packed)
        self._given, self._packed = None, -1

    async def reload(self, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Reload, which is what `work` does, and report it to the parent, even if it is cancelled
        or fails; return its result.
        """
        with self.answering():
            result = await work()
            await self.reloaded(result)
        return result

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Tell the parent if what is done here for a reload ends in any other way than by its
        report, so that the parent does not wait for that.
        """
        reports = self._reports
        try:
            yield
        except BaseException:
            if self._reports == reports:
                self._interrupted()
            raise

    async def reloaded(self, result: dict[str, Any]) -> None:
        """Report a reload to the parent. The first process waits until all others have applied what
        it has; `result` gets a warning for each that has not.
        """
        if not self.is_first:
            if self._taken == self._answered:  # the parent did not ask for it
                return
            self._answered = self._taken
            number = str(self._taken)
            if result["ok"]:
                self.systemd.say({line.APPLIED: number})
            else:
                self.systemd.say({line.REFUSED: "; ".join(result["errors"]), line.NUMBER: number})
            return
        self._reports += 1
        if not result["ok"] or self._given is None:
            self._forget()
            self.systemd.say({line.REFUSED: "; ".join(result["errors"])})
            return
        self.whole, self._spread = self._given, trio.Event()
        self.systemd.say({line.CONFIG: "1"}, [self._packed])
        self._given, self._packed = None, -1
        with trio.move_on_after(SPREAD_SECONDS) as scope:
            await self._spread.wait()
        slow = [f"not all processes have applied it within {SPREAD_SECONDS:g} s"]
        result["warnings"] += slow if scope.cancelled_caught else self._problems

    def _interrupted(self) -> None:
        why = "it was interrupted"
        if self.is_first:
            self._reports += 1
            self.systemd.say({line.REFUSED: why})
        elif self._number != self._answered:
            self._refuse(self._number, why)

    def _refuse(self, number: int, why: str) -> None:
        """Tell the parent that its config of this number is not applied here."""
        self._number = self._answered = number
        self.systemd.say({line.REFUSED: why, line.NUMBER: str(number)})

    def admin_listeners(self) -> list[trio.SocketListener]:
        """The admin port's sockets, which listen from now on."""
        made = []
        for one in self.admin:
            own = one.dup()
            own.listen(BACKLOG)
            made.append(trio.SocketListener(trio.socket.from_stdlib_socket(own)))
        return made

    def gateway_listeners(self) -> list[HandedListener]:
        """What gives the connections that the parent hands over; once it is closed, those that come
        are closed.
        """
        return [HandedListener(self._receive, Place(self.gateway), self._left)]

    def _left(self, address: str) -> None:
        """Tell the parent that a connection is closed; what it cannot hear now is counted."""
        self._gone[address] += 1
        self._tell_left()

    def _tell_left(self) -> None:
        while self._gone:
            address, times = next(iter(self._gone.items()))
            words = f"{line.LEFT}={address}\n{line.TIMES}={times}\n"
            if not line.send(self._line, words.encode()):
                return
            del self._gone[address]

    async def _tell_rest(self) -> None:
        while True:
            self._tell_left()
            await trio.sleep(RETRY_SECONDS)

    @property
    def problem(self) -> tuple[str, bool]:
        """What is wrong with the processes, and whether too few of them serve: fewer than half, so
        that the others cannot carry what there is.
        """
        servers = [row for row in self.table if row["name"].startswith("process")]
        bad = [row for row in self.table if row["state"] != "ready"]
        up = sum(row["state"] == "ready" for row in servers)
        shown = [f"{row['name']} is {row['state']}{_why(row)}" for row in bad]
        if not bad:
            return "", False
        text = f"{up} of {len(servers)} processes serve: {'; '.join(shown)}"
        return text, 2 * up < len(servers)

    async def run(self) -> None:
        """Do what the parent says, and show it that we live, until cancelled. If the parent has
        gone this process drains and ends, as after SIGTERM.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.systemd.show_life)
            nursery.start_soon(self._tell_rest)
            while True:
                await trio.lowlevel.wait_readable(self._line)
                while (heard := line.receive(self._line)) is not None:
                    packet, fds = heard
                    if not packet:
                        log.error("the parent has gone: this process ends")
                        end_in(self.whole.gateway.drain + STOP_MORE)  # as the parent would
                        os.kill(os.getpid(), signal.SIGTERM)
                        await trio.sleep_forever()
                    await self._obey(packet, fds)

    async def _obey(self, packet: bytes, fds: list[int]) -> None:
        kind, text = packet[:1], packet[1:]
        try:
            if kind == line.CLIENT:
                try:
                    self._send.send_nowait((fds[0], text.decode()))
                    fds.pop(0)
                except (IndexError, trio.WouldBlock, trio.BrokenResourceError):
                    self._left(text.decode())
            elif kind == line.RELOAD:
                await self._take(int(text), fds)
            elif kind == line.SPREAD:
                self._problems = json.loads(text)
                self._spread.set()
            elif kind == line.TABLE:
                self.table = json.loads(text)
        finally:
            for descriptor in fds:
                os.close(descriptor)

    async def _take(self, number: int, fds: Sequence[int]) -> None:
        """Have a config of the parent applied, or tell it that this cannot be."""
        if not fds:
            self._refuse(number, "it did not come along: no descriptor to spare")
            return
        with fence("parent", "its config") as caught:
            self.whole = await trio.to_thread.run_sync(line.unpickled, fds[0])
        if caught.error is not None:
            self._refuse(number, f"it cannot be read: {cause_of(caught.error)}")
            return
        self._number = number
        os.kill(os.getpid(), signal.SIGHUP)


def _why(row: dict[str, Any]) -> str:
    return f" ({row['why']})" if row["why"] else ""
