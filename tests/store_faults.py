"""What a store can do to a client: refuse, answer nonsense, half or late, cut the connection; and
the rules by which commands meet it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import BinaryIO, Self

from attrs import define, field, frozen

from .resp import Command, read_answer

REFUSALS = {
    "READONLY": "You can't write against a read only replica.",
    "OOM": "command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "Errors writing to the AOF file: No space left on device",
    "NOREPLICAS": "Not enough good replicas to write.",
    "NOPERM": "User default has no permissions to run the command",
    "BUSY": "Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "LOADING": "Valkey is loading the dataset in memory",
    "MASTERDOWN": "Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN": "The cluster is down",
    "TRYAGAIN": "Multiple keys request during rehashing of slot",
    "NOAUTH": "Authentication required.",
    "WRONGPASS": "invalid username-password pair or user is disabled.",
    "WRONGTYPE": "Operation against a key holding the wrong kind of value",
    "EXECABORT": "Transaction discarded because of previous errors.",
    "ERR": "max number of clients reached",
}
"""What a server says, by the code that comes before it."""
OF_WRITES = {"READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOPERM"}
"""Refusals that reading commands do not meet."""
GREETING = {"HELLO", "AUTH", "CLIENT", "SELECT", "QUIT", "INFO", "COMMAND", "CLUSTER", "CONFIG"}
"""Commands that no rule picks unless it names them: a server answers them in any state."""
READING = {
    "SCRIPT",
    "PING",
    "GET",
    "MGET",
    "HGET",
    "HMGET",
    "HGETALL",
    "EXISTS",
    "LRANGE",
    "LLEN",
    "XRANGE",
    "XREVRANGE",
    "XLEN",
    "XINFO",
    "ZRANGE",
    "ZCARD",
    "ZSCORE",
    "ZMSCORE",
    "SMEMBERS",
    "SMISMEMBER",
    "PFCOUNT",
    "TTL",
    "PTTL",
    "TYPE",
    "STRLEN",
    "TIME",
    "DBSIZE",
    "SCAN",
    "MEMORY",
    "WAIT",
    "DUMP",
    "contact_find",
    "contacts_changed",
    "group_list",
    "outbox_page",
    "statistics_rate",
}


class Ended(Exception):
    """The connection is to be closed."""


@frozen
class Act:
    """What happens to a command that a rule picks; `of_writes`: unless the rule names commands, it
    picks only writing ones.
    """

    do: Callable[[Session, Command], None]
    of_writes: bool = False


def refuse(code: str, text: str | None = None) -> Act:
    """Answer with an error, and do nothing. As a server would: refusals of writes do not meet
    commands that read.
    """
    words = f"{code} {REFUSALS.get(code, '') if text is None else text}".strip()
    return Act(
        lambda session, _: session.send(f"-{words}\r\n".encode()), of_writes=code in OF_WRITES
    )


def answer(data: bytes) -> Act:
    """Answer with these bytes, whatever they are, and do nothing."""
    return Act(lambda session, _: session.send(data))


def garbage() -> Act:
    """Answer with what is no RESP."""
    return answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def cut(*, after: bool = False) -> Act:
    """Cut the connection, before the command is carried out or after it."""

    def do(session: Session, command: Command) -> None:
        if after:
            session.ask(command)
        raise Ended

    return Act(do)


def half(*, then_cut: bool = True) -> Act:
    """Carry the command out, send half of its answer, and cut the connection or say nothing
    more.
    """

    def do(session: Session, command: Command) -> None:
        data = session.ask(command)
        session.send(data[: len(data) // 2])
        if not then_cut:
            session.wait(float("inf"))
        raise Ended

    return Act(do)


def late(seconds: float) -> Act:
    """Carry the command out after a time; `float("inf")`: never answer, until the rule is
    lifted.
    """

    def do(session: Session, command: Command) -> None:
        session.wait(seconds)
        session.send(session.ask(command))

    return Act(do)


def drip(seconds: float) -> Act:
    """Carry the command out, and send its answer byte by byte, with a pause before each."""

    def do(session: Session, command: Command) -> None:
        data = session.ask(command)
        for n in range(len(data)):
            session.wait(seconds)
            session.send(data[n : n + 1])

    return Act(do)


@define(eq=False)
class Rule:
    """A fault that some commands meet. As a context manager it is lifted at the end.

    Attributes:
        seen: How many commands it was about.
        hits: How many of them it picked.
    """

    act: Act
    names: frozenset[str]
    nth: int | None
    every: int
    times: int | None
    seen: int = 0
    hits: int = 0
    lifted: threading.Event = field(factory=threading.Event)

    def picks(self, name: str) -> bool:
        """Whether this command is to meet it; counts."""
        if self.lifted.is_set() or not self._is_about(name):
            return False
        self.seen += 1
        due = self.seen == self.nth if self.nth is not None else self.seen % self.every == 0
        if not due or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def _is_about(self, name: str) -> bool:
        if self.names:
            return name in self.names
        return name not in GREETING and not (self.act.of_writes and name in READING)

    def lift(self) -> None:
        """End it, also for the commands that it keeps waiting."""
        self.lifted.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()


@define(eq=False)
class Session:
    """One client, and the connection to the real server behind it."""

    client: socket.socket
    server: socket.socket
    asked: BinaryIO
    answered: BinaryIO
    rule: Rule | None = None
    ended: threading.Event = field(factory=threading.Event)

    def send(self, data: bytes) -> None:
        """To the client."""
        self.client.sendall(data)

    def ask(self, command: Command) -> bytes:
        """The real server's answer."""
        self.server.sendall(
            b"*%d\r\n" % len(command)
            + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in command)
        )
        return read_answer(self.answered)

    def wait(self, seconds: float) -> None:
        """Until the time is over, the rule lifted, or the connection cut."""
        assert self.rule is not None
        step = 0.01
        while seconds > 0 and not self.rule.lifted.wait(min(step, seconds)):
            if self.ended.is_set():
                raise Ended
            seconds -= step

    def close(self) -> None:
        self.ended.set()
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
