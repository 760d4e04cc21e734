"""A proxy in front of a real Valkey that does to a client whatever a store can do to it.

It passes RESP on, one command after the other, and answers those that a rule picks itself: with a
refusal, garbage, half an answer, late, or by cutting the connection. It runs in threads of its own,
so tests of any kind may use it, also those that start the service as a process.

    with store_proxy(valkey_url) as proxy:  # proxy.url goes into redis.url
        proxy.fault(refuse("MISCONF"))  # every write, as a full disk does; until proxy.cure()
        proxy.fault(refuse("OOM"), "outbox_post", nth=2)  # the second call of a script
        proxy.fault(cut(after=True), "XDEL", times=1)  # carried out; the client never learns of it
        proxy.fault(late(0.5), every=3)  # every third command
        proxy.stop()  # the store is away
        proxy.start()  # and back
        moment = proxy.remember()
        proxy.go_back(moment)  # a failover to a replica that was behind

The faults are in store_faults.py.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from attrs import define, field

from resources.stores.scripts import all_scripts

from .resp import Command, read_command
from .store_faults import Act, Ended, Rule, Session
from .tcp_proxy import connect_to


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
    _sessions: set[Session] = field(factory=set)
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
            return {
                key: (client.dump(key), max(client.pttl(key), 0))  # type: ignore[misc]
                for key in client.keys("*")
            }

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
                server = stack.enter_context(connect_to(self.upstream))
            except OSError:
                return
            asked = stack.enter_context(client.makefile("rb"))
            session = Session(client, server, asked, stack.enter_context(server.makefile("rb")))
            with self._lock:
                self.connections += 1
                self._sessions.add(session)
            try:
                while not self._away:
                    self._one(session)
            except (Ended, OSError, EOFError, ValueError):
                pass
            finally:
                with self._lock:
                    self._sessions.discard(session)
                session.close()

    def _one(self, session: Session) -> None:
        command = read_command(session.asked)
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


def _name(command: Command) -> str:
    name = command[0].decode().upper()
    if name == "EVALSHA":
        return next((one.name for one in all_scripts() if one.digest.encode() == command[1]), name)
    if name == "EVAL":
        return next((one.name for one in all_scripts() if one.text.encode() == command[1]), name)
    return name
