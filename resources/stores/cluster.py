"""The blocking side of the Redis client for a cluster: it splits each batch by node.

There is one connection per node, made when first needed. The map of slots is fetched at the start,
and again when it may be wrong: a node is lost, or a slot has moved. Nodes are independent: a lost
one fails only its own commands (`direct.Lost`).
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis
from attrs import define, field, frozen
from redis.crc import key_slot

from .errors import NO_WRITES, code_of
from .link import SOCKET_SECONDS, NodeLink, words_of
from .resp import Command, ErrorAnswer, Lost, NotSent
from .scripts import in_full

SLOTS = 16384
FIRST_KEY = {"EVALSHA": 3, "EVAL": 3}  # its place in a command; 1 in all others
KEYLESS = {"PING", "TIME", "INFO"}
CONNECT_SECONDS = 2.0  # short, since a lost node delays the commands for the others
REDIRECTS = 4  # times that a command follows a redirection
TRIES = 2  # times that a command is tried again while its slot is being moved
PAUSE = 0.02  # seconds before that
REST_SECONDS = 1.0  # before a lost node, or a map that may be wrong, is tried again

_REDIRECT = re.compile(r"(MOVED|ASK) (\d+) (\S*):(\d+)$")


@frozen
class _Place:
    """Where to send a command; `asking`: to a node that does not own the slot yet."""

    node: str
    asking: bool = False


@define
class ClusterLink:
    """Connections to the nodes of a cluster, and its map of slots."""

    url: str
    seconds: float = SOCKET_SECONDS
    # by slot, as "host:port"; empty: there is no map
    _owners: list[str | None] = field(factory=list, init=False)
    # all nodes of the newest map: one of them knows the next
    _known: list[str] = field(factory=list, init=False)
    _nodes: dict[str, NodeLink] = field(factory=dict, init=False)
    # lost nodes: until when, and why
    _resting: dict[str, tuple[float, str]] = field(factory=dict, init=False)
    # nodes that refused a write as they would any other, and none that they took since
    _refusing: set[str] = field(factory=set, init=False)
    _is_doubtful: bool = field(default=False, init=False)
    _looked_at: float = field(default=0.0, init=False)
    _abandoned: bool = field(default=False, init=False)

    def connect(self) -> None:
        """Fetch the map of slots from any known node."""
        if not self._owners:
            self._resting.clear()
            self._learn()

    def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Any]:
        """Send one pipeline per node. Commands that a node redirects, and so did not run, are sent
        on to where they belong.
        """
        del packed  # commands go to several nodes
        if self._is_doubtful and time.monotonic() - self._looked_at > REST_SECONDS:
            with suppress(redis.ConnectionError):  # else the old map has to do
                self._learn()
        answers: list[Any] = [None] * len(commands)
        waiting = {n: _Place(self._owner_of(command)) for n, command in enumerate(commands)}
        tries = 0
        for _ in range(1 + REDIRECTS):
            waiting = self._round(commands, waiting, answers)
            if not waiting:
                break
            if any(code_of(str(answers[n])) == "TRYAGAIN" for n in waiting):
                tries += 1
                if tries > TRIES:
                    break
                time.sleep(PAUSE)
        lost = [answer for answer in answers if isinstance(answer, Lost)]
        if lost and len(lost) == len(answers):
            try:
                self._learn()  # is there any other node?
            except redis.ConnectionError as error:
                kind = redis.ConnectionError if any(one.sent for one in lost) else NotSent
                raise kind(str(error)) from error
        return answers

    def _round(
        self, commands: Sequence[Command], waiting: dict[int, _Place], answers: list[Any]
    ) -> dict[int, _Place]:
        """Send the waiting commands and note the answers; return the commands to send again, with
        their places.
        """
        shares = defaultdict[_Place, list[int]](list)
        for n, place in waiting.items():
            shares[place].append(n)
        following = dict[int, _Place]()
        for place, share in shares.items():
            # ASKING comes before each command; scripts go in full: the node may not know them
            if place.asking:
                pairs = [one for n in share for one in (("ASKING",), _whole(commands[n]))]
                found = self._ask(place.node, pairs)[1::2]
            else:
                found = self._ask(place.node, [commands[n] for n in share])
            for n, answer in zip(share, found, strict=True):
                answers[n] = answer
                if (
                    isinstance(answer, ErrorAnswer)
                    and (then := self._follow(place, str(answer))) is not None
                ):
                    following[n] = then
        return following

    def _ask(self, name: str, commands: Sequence[Command]) -> list[Any]:
        """Send a pipeline to one node. If the node is lost, each answer is a `Lost`."""
        until, why = self._resting.get(name, (0.0, ""))
        if time.monotonic() < until:
            return [Lost(why, sent=False)] * len(commands)
        while True:
            sent = False
            node = self._node(name)
            is_new = not node.is_connected
            try:
                node.connect()
                sent = True
                answers = node.exchange(commands)
            except (redis.RedisError, OSError) as error:
                node.close()
                sent = sent and not isinstance(error, NotSent)
                if not sent and not is_new:
                    # it was closed while idle, which says nothing about the node
                    continue
                why = f"node {name} of the cluster does not answer: {words_of(error)}"
                self._resting[name] = (time.monotonic() + REST_SECONDS, why)
                self._is_doubtful = True
                return [Lost(why, sent=sent)] * len(commands)
            self._resting.pop(name, None)
            self._look_at(name, commands, answers)
            return answers

    def _look_at(self, name: str, commands: Sequence[Command], answers: list[Any]) -> None:
        """Note whether a node refuses all writes."""
        for command, answer in zip(commands, answers, strict=False):
            if isinstance(answer, ErrorAnswer):
                if code_of(str(answer)) in NO_WRITES:
                    self._refusing.add(name)
            elif self._refusing and command[0] == "SET":
                self._refusing.discard(name)

    def _follow(self, place: _Place, answer: str) -> _Place | None:
        """Return where to send a command after this error; None: the error is its answer."""
        found = _REDIRECT.match(answer)
        if found is None:
            self._is_doubtful |= code_of(answer) == "CLUSTERDOWN"
            return place if code_of(answer) == "TRYAGAIN" else None
        kind, slot, host, port = found.groups()
        node = f"{host or place.node.rpartition(':')[0]}:{port}"
        if kind == "ASK":
            return _Place(node, asking=True)
        self._is_doubtful = True
        if int(slot) < SLOTS:
            self._owners[int(slot)] = node
        return _Place(node)

    def _owner_of(self, command: Command) -> str:
        at = FIRST_KEY.get(command[0], 1)
        owner = None
        if command[0] not in KEYLESS and len(command) > at:
            key = command[at]
            owner = self._owners[key_slot(key if isinstance(key, bytes) else str(key).encode())]
        return owner or next(
            (name for name in self._known if name not in self._resting), self._known[0]
        )

    def _learn(self) -> None:
        """Fetch the map of slots and the list of nodes.

        Raises:
            redis.ConnectionError: No known node answers.
        """
        self._looked_at = time.monotonic()
        first: Exception | None = None
        for name in dict.fromkeys([*self._awake(), _seed(self.url), *self._known]):
            try:
                node = self._node(name)
                node.connect()
                (answer,) = node.exchange([("CLUSTER", "SLOTS")])
                self._note(name, answer)
            except (redis.RedisError, OSError) as error:
                self._node(name).close()
                first = first or error
            else:
                self._is_doubtful = False
                return
        reason = "" if first is None else words_of(first)
        raise redis.ConnectionError(f"no node of the cluster answers: {reason}") from first

    def _awake(self) -> list[str]:
        return [name for name in self._known if name not in self._resting]

    def _note(self, asked: str, answer: Any) -> None:
        """Keep a map. Its rows: first slot, last slot, owner, replicas."""
        if isinstance(answer, ErrorAnswer):
            raise redis.ConnectionError(str(answer))
        owners: list[str | None] = [None] * SLOTS
        known = dict[str, None]()
        try:
            for first, last, *nodes in answer:
                names = [_name_of(node, asked) for node in nodes]
                known.update(dict.fromkeys(names))
                owners[first : last + 1] = [names[0]] * (last + 1 - first)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise redis.InvalidResponse(f"its map of slots cannot be read: {error}") from error
        if not known or len(owners) != SLOTS:
            raise redis.ConnectionError("it has no slots")
        self._owners, self._known = owners, list(known)
        self._refusing &= known.keys()
        for name in self._nodes.keys() - known.keys():
            self._nodes.pop(name).close()

    def _node(self, name: str) -> NodeLink:
        if self._abandoned:
            raise redis.ConnectionError("the client is closed")
        node = self._nodes.get(name)
        if node is None:
            url = _url_of(self.url, name)
            node = self._nodes[name] = NodeLink(
                url, self.seconds, min(self.seconds, CONNECT_SECONDS)
            )
        return node

    def can_write(self, key: str) -> bool:
        """Whether the key's node is neither lost nor refuses all writes, as far as known."""
        owners = self._owners
        owner = owners[key_slot(key.encode())] if owners else None
        return owner is not None and owner not in self._resting and owner not in self._refusing

    def direct(self) -> None:
        """None: there are several connections, and redirections are followed in a thread."""

    def close(self) -> None:
        """Close all connections, but remember the nodes."""
        self._owners = []
        for node in self._nodes.values():
            node.close()

    def abandon(self) -> None:
        """Shut the sockets down."""
        self._abandoned = True
        for node in list(self._nodes.values()):
            node.abandon()


def _whole(command: Command) -> Command:
    return in_full(command) if command[0] == "EVALSHA" else command


def _name_of(node: Sequence[Any], asked: str) -> str:
    """The name of a node in a map. A node may leave out its own host, which is that of `asked`."""
    host = (node[0] or b"").decode()
    return f"{asked.rpartition(':')[0] if host in ('', '?') else host}:{int(node[1])}"


def _seed(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _url_of(url: str, name: str) -> str:
    """The URL of a node, with the user, password and options of the one given."""
    parts = urlsplit(url)
    host, _, port = name.rpartition(":")
    user, at, _ = parts.netloc.rpartition("@")
    shown = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=f"{user}{at}{shown}:{port}").geturl()
