"""What a server is told by others, over Redis' publish and subscribe.

It is a bell, not a queue: whatever is told is also in the store, and whoever listens looks there
when the connection was lost. A thread of its own waits for the server, since redis-py does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import redis
import trio
from attrs import define, field
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..fence import fence
from . import sentinel
from .link import words_of

WAIT = 1.0  # seconds that the thread waits at a time
MISCONF = "MISCONF"  # how a server refuses that cannot write to its disk
SILENCE = 5.0  # seconds without an answer after which the connection counts as lost
AGAIN = (0.1, 2.0)  # seconds between attempts to connect: first, most
CLUSTER = "redis+cluster://"
BACKLOG = 10_000  # messages that wait for Trio's thread; beyond it they are dropped
BACKLOG_BYTES = 8 << 20  # of them; likewise

log = logging.getLogger(__name__)


@define(eq=False)
class Inbox:
    """Listens on one channel. Made by `open_inbox`.

    Attributes:
        heard: Called with each message.
        looked: Called when something may have been missed: when the connection stands (again).
    """

    _url: str
    _channel: str
    heard: Callable[[bytes], None]
    looked: Callable[[], None]
    is_up: bool = field(default=False, init=False)
    _is_over: threading.Event = field(factory=threading.Event, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _waiting: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)  # bytes of them
    _is_missing: bool = field(default=False, init=False)  # some were dropped
    _is_rung: bool = field(default=False, init=False)
    _nodes: list[str] = field(factory=list, init=False)  # of a cluster, as "host:port"
    _tried: int = field(default=0, init=False)  # connections that failed, or were lost

    def listen(self, token: trio.lowlevel.TrioToken) -> None:
        """In a thread: connect and listen, again and again, until `stop`."""
        pause = AGAIN[0]
        while not self._is_over.is_set():
            try:
                self._listen_once(token)
                pause = AGAIN[0]
            # whatever it is, it may be over at the next attempt
            except Exception as error:  # noqa: BLE001
                if self.is_up:
                    log.warning("what other servers say is not heard: %s", words_of(error))
                pause = AGAIN[0] if self.is_up else min(pause * 2, AGAIN[1])
                self.is_up = False
                self._tried += 1
            self._is_over.wait(pause)

    def stop(self) -> None:
        """End the thread within `WAIT`."""
        self._is_over.set()

    def _listen_once(self, token: trio.lowlevel.TrioToken) -> None:
        with _client(self._address()) as client, client.pubsub() as subscription:
            subscription.subscribe(self._channel)
            if self._url.startswith(CLUSTER):
                self._nodes = sorted(client.execute_command("CLUSTER NODES"))
            heard_at = time.monotonic()
            while not self._is_over.is_set():
                try:
                    message = subscription.get_message(timeout=WAIT)
                except redis.ResponseError as error:
                    if not self.is_up or not words_of(error).startswith(MISCONF):
                        raise
                    heard_at = time.monotonic()  # with a full disk, a ping is refused as writes are
                    continue
                if message is not None:
                    heard_at = time.monotonic()
                    self._take(message, token)
                elif time.monotonic() - heard_at > SILENCE:
                    raise redis.TimeoutError(f"no answer in {SILENCE:g} s")
                elif time.monotonic() - heard_at > SILENCE / 2:
                    subscription.ping()

    def _address(self) -> str:
        """The URL to connect to: of a cluster, that of any node that we know, in turn, since what
        is published reaches them all.
        """
        at = self._tried % (len(self._nodes) + 1)
        if at == 0:
            return self._url
        host, _, port = self._nodes[at - 1].rpartition(":")
        parts = urlsplit(self._url)
        login, is_login, _ = parts.netloc.rpartition("@")
        shown = f"[{host}]" if ":" in host else host
        return parts._replace(netloc=f"{login}{is_login}{shown}:{port}").geturl()

    def _take(self, message: dict[str, Any], token: trio.lowlevel.TrioToken) -> None:
        if message["type"] == "subscribe":
            self.is_up = True
            token.run_sync_soon(self._call, self.looked)
        elif message["type"] == "message":
            with self._lock:
                self._size += len(message["data"])
                if len(self._waiting) < BACKLOG and self._size <= BACKLOG_BYTES:
                    self._waiting.append(message["data"])
                else:
                    self._is_missing = True
                is_rung, self._is_rung = self._is_rung, True
            if not is_rung:
                token.run_sync_soon(self._hand_over)

    def _hand_over(self) -> None:
        """In Trio's thread: everything that has come."""
        with self._lock:
            some, self._waiting, self._is_rung = self._waiting, [], False
            is_missing, self._is_missing, self._size = self._is_missing, False, 0
        if self._is_over.is_set():
            return
        for one in some:
            with fence("inbox"):
                self.heard(one)
        if is_missing:
            self._call(self.looked)

    def _call(self, what: Callable[[], None]) -> None:
        if not self._is_over.is_set():
            with fence("inbox"):
                what()


def _client(url: str) -> redis.Redis:
    """A blocking client of the server at a URL, or of the master that Sentinel names."""
    options: dict[str, Any] = {
        "socket_timeout": SILENCE,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    if url.startswith(("redis+sentinel://", "rediss+sentinel://")):
        url = sentinel.master_url(url, SILENCE)
    return redis.Redis.from_url(url.replace(CLUSTER, "redis://", 1), **options)


@asynccontextmanager
async def open_inbox(
    url: str, channel: str, heard: Callable[[bytes], None], looked: Callable[[], None]
) -> AsyncIterator[Inbox]:
    """Listen for as long as the block runs."""
    inbox = Inbox(url, channel, heard, looked)
    token = trio.lowlevel.current_trio_token()
    thread = threading.Thread(target=inbox.listen, args=(token,), name="inbox", daemon=True)
    thread.start()
    try:
        yield inbox
    finally:
        inbox.stop()
        with trio.CancelScope(shield=True), suppress(RuntimeError):
            await trio.to_thread.run_sync(thread.join, 2 * SILENCE)
