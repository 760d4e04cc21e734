"""A proxy in front of a real Valkey that does to a client whatever a store can do to it.

It passes RESP on, one command after the other, and answers those that a rule picks itself: with a
refusal, garbage, half an answer, late, or by cutting the connection. It runs in threads of its own,
so tests of any kind may use it, also those that start the service as a process.

    with store_proxy(valkey_url) as proxy:                   # proxy.url goes into redis.url with
        proxy.fault(refuse("MISCONF")): ...             # every write, as a full disk does
        proxy.fault(refuse("OOM"), "outbox_post", nth=2)     # the second call of a script; holds
        until proxy.cure() proxy.fault(cut(after=True), "XDEL", times=1)        # carried out, and
        the client never learns of it proxy.fault(late(0.5), every=3)                      # every
        third command proxy.stop(); proxy.start()                          # the store is away, and
        is back moment = proxy.remember(); proxy.go_back(moment)     # a failover to a replica that
        was behind
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Self
from urllib.parse import urlsplit

import redis
from attrs import define, field, frozen

from resources.stores.scripts import all_scripts

Command = tuple[bytes, ...]

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


class _Ended(Exception):
    """The connection is to be closed."""


@frozen
class Act:
    """What happens to a command that a rule picks; `of_writes`: unless the rule names commands, it
    picks only writing ones.
    """

    do: Callable[[_Session, Command], None]
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

    def do(session: _Session, command: Command) -> None:
        if after:
            session.ask(command)
        raise _Ended

    return Act(do)


def half(*, then_cut: bool = True) -> Act:
    """Carry the command out, send half of its answer, and cut the connection or say nothing
    more.
    """

    def do(session: _Session, command: Command) -> None:
        data = session.ask(command)
        session.send(data[: len(data) // 2])
        if not then_cut:
            session.wait(float("inf"))
        raise _Ended

    return Act(do)


def late(seconds: float) -> Act:
    """Carry the command out after a time; `float("inf")`: never answer, until the rule is
    lifted.
    """

    def do(session: _Session, command: Command) -> None:
        session.wait(seconds)
        session.send(session.ask(command))

    return Act(do)


def drip(seconds: float) -> Act:
    """Carry the command out, and send its answer byte by byte, with a pause before each."""

    def do(session: _Session, command: Command) -> None:
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
class _Session:
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
        return _frame(self.answered)

    def wait(self, seconds: float) -> None:
        """Until the time is over, the rule lifted, or the connection cut."""
        assert self.rule is not None
        step = 0.01
        while seconds > 0 and not self.rule.lifted.wait(min(step, seconds)):
            if self.ended.is_set():
                raise _Ended
            seconds -= step

    def close(self) -> None:
        self.ended.set()
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@define(eq=False)
class StoreProxy:
    """Made by `store_proxy`. Every method may be called from any thread."""

    url: str
    upstream: str
    commands: Counter[str] = field(factory=Counter)
    """How many commands came, by name; calls of our scripts by the name of the script."""
    connections: int = 0
    """How many connections were ever taken."""
    _rules: list[Rule] = field(factory=list)
    _sessions: set[_Session] = field(factory=set)
    _threads: list[threading.Thread] = field(factory=list)
    _away: bool = False
    _lock: threading.RLock = field(factory=threading.RLock)

    def fault(
        self,
        act: Act,
        *names: str,
        nth: int | None = None,
        every: int = 1,
        times: int | None = None,
    ) -> Rule:
        """From now on, until the rule is lifted: what happens to commands with these names (none:
        to all).

        Args:
            act: What happens.
            names: Of commands, or of our scripts ("outbox_post").
            nth: Only to the n-th of them.
            every: Only to every k-th of them.
            times: How often, at most.
        """
        with self._lock:
            rule = Rule(act, frozenset(names), nth, every, times)
            self._rules.append(rule)
            return rule

    def cure(self) -> None:
        """Lift all rules, and be there."""
        with self._lock:
            for rule in self._rules:
                rule.lift()
            self._rules.clear()
            self._away = False

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            for session in self._sessions:
                session.close()

    def stop(self) -> None:
        """Cut all connections, and those that come are cut at once."""
        with self._lock:
            self._away = True
            self.cut()

    def start(self) -> None:
        """Take connections again."""
        self._away = False

    def remember(self) -> dict[bytes, tuple[bytes, int]]:
        """Everything that the store holds at this moment."""
        with self._direct() as client:
            return {key: (client.dump(key), max(client.pttl(key), 0)) for key in client.keys("*")}  # type: ignore[misc]

    def go_back(self, moment: dict[bytes, tuple[bytes, int]] | None = None) -> None:
        """Be as at a remembered moment (or empty), as after a failover to a replica that was
        behind: no script is known, and the connections are cut.
        """
        with self._direct() as client:
            client.flushall()
            client.script_flush()
            for key, (text, lifetime) in (moment or {}).items():
                client.restore(key, lifetime, text)
        self.cut()

    def _direct(self) -> redis.Redis:
        return redis.Redis.from_url(self.upstream, protocol=2)

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the end
                return
            thread = threading.Thread(target=self._serve, args=(client, tls), daemon=True)
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _serve(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        with client, contextlib.ExitStack() as stack:
            if self._away:
                return
            try:
                if tls is not None:
                    client = stack.enter_context(tls.wrap_socket(client, server_side=True))
                server = stack.enter_context(_connect(self.upstream))
            except OSError:
                return
            asked = stack.enter_context(client.makefile("rb"))
            session = _Session(client, server, asked, stack.enter_context(server.makefile("rb")))
            with self._lock:
                self.connections += 1
                self._sessions.add(session)
            try:
                while not self._away:
                    self._one(session)
            except (_Ended, OSError, EOFError, ValueError):
                pass
            finally:
                with self._lock:
                    self._sessions.discard(session)
                session.close()

    def _one(self, session: _Session) -> None:
        command = _command(session.asked)
        name = _name(command)
        with self._lock:
            self.commands[name] += 1
            session.rule = next((rule for rule in self._rules if rule.picks(name)), None)
        if session.rule is None:
            session.send(session.ask(command))
        else:
            session.rule.act.do(session, command)


@contextmanager
def store_proxy(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[StoreProxy]:
    """A proxy on loopback in front of the server at `unix://...` or `redis://...`; with `tls` it
    speaks TLS to its clients.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        scheme = "redis" if tls is None else "rediss"
        proxy = StoreProxy(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", upstream)
        thread = threading.Thread(target=proxy._accept, args=(listener, tls), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            proxy.cure()
            proxy.stop()
            for one in proxy._threads:
                one.join()


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        server = socket.socket(socket.AF_UNIX)
        server.connect(parts.path)
        return server
    return socket.create_connection((parts.hostname or "localhost", parts.port or 6379))


def _name(command: Command) -> str:
    name = command[0].decode().upper()
    if name == "EVALSHA":
        return next((one.name for one in all_scripts() if one.digest.encode() == command[1]), name)
    if name == "EVAL":
        return next((one.name for one in all_scripts() if one.text.encode() == command[1]), name)
    return name


def _line(file: BinaryIO) -> bytes:
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    return line


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _command(file: BinaryIO) -> Command:
    return tuple(_exactly(file, int(_line(file)[1:]) + 2)[:-2] for _ in range(int(_line(file)[1:])))


def _frame(file: BinaryIO) -> bytes:
    """One answer as it came, of RESP2 or RESP3."""
    line = _line(file)
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!":
        return line if int(rest) < 0 else line + _exactly(file, int(rest) + 2)
    if kind in b"*~>%|":
        parts = int(rest) * (2 if kind in b"%|" else 1) + (kind == b"|")
        return line + b"".join(_frame(file) for _ in range(parts))
    return line
