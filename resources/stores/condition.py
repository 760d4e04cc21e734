"""The store's health as its latest answers show it: which refusals stand, in its own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from .errors import FENCED, NO_WRITES, PASSING, WIDE, Fenced, StoreRefused, Unavailable
from .link import words_of
from .resp import Command, ErrorAnswer, Lost

STANDS_SECONDS = 10.0  # that a refusal stands if nothing disproves it
PROVED_BY_WRITING = PASSING | NO_WRITES
"""Codes of refusals that any write would meet: a write that succeeds ends them."""

MOVE_ON = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS"})
"""Codes after which to reconnect: the address may lead to another server by now."""

OURS = "LIMIT"  # code of our own scripts' refusals, which say nothing about the store
CODES_MAX = 50  # distinct codes that are counted; further ones count as "other"


@frozen
class _Refusal:
    kind: Any
    text: str
    at: float


@frozen
class RedisStatistics:
    """How a client is doing.

    Attributes:
        up: Whether the connection stands.
        problem: Why the connection is down, or the store's own words for why it refuses commands;
            "" when well.
        concerns_all: Whether the problem affects all commands, or all writes; otherwise one kind of
            command met it recently.
        refused: How many commands were refused, by the store's code.
    """

    up: bool
    waiting: int
    batches: int
    commands: int
    reconnects: int
    problem: str = ""
    concerns_all: bool = False
    refused: Mapping[str, int] = field(factory=dict)


@define
class Found:
    """What errors among answers ask for.

    Attributes:
        moves_on: Why to reconnect, in the server's words; "" if there is no need.
        is_unknown: Whether some commands may or may not have been carried out.
        is_fenced: Whether another server owns the partition of a write.
    """

    moves_on: str = ""
    is_unknown: bool = False
    is_fenced: bool = False


@define(eq=False)
class Condition:
    """The refusals that stand, by code. A success of the same kind of command ends one, or the
    probe, or time.
    """

    counts: Counter[str] = field(factory=Counter, init=False)
    _standing: dict[str, _Refusal] = field(factory=dict, init=False)

    def refused(self, command: Command, refusal: StoreRefused, now: float) -> None:
        """Note that a command was refused."""
        code = refusal.code
        self.counts[code if code in self.counts or len(self.counts) < CODES_MAX else "other"] += 1
        if code != OURS:
            self._standing[code] = _Refusal(_kind(command), refusal.plain, now)

    def unreachable(self, reason: str, now: float) -> None:
        """Note that a part of the store did not answer."""
        self._standing["UNREACHABLE"] = _Refusal(None, reason, now)

    def replicated(self, answer: Any, wanted: int, now: float) -> Unavailable | None:
        """Note whether as many replicas as wanted have a batch; return what is wrong if not.
        `answer`: of WAIT.
        """
        if isinstance(answer, int) and answer >= wanted:
            return None
        count = f"{answer} of {wanted} replicas" if isinstance(answer, int) else str(answer)
        reason = f"too few replicas have it (redis.replicas): {count}"
        self.unreachable(reason, now)
        return Unavailable(reason, sent=True)

    @property
    def is_well(self) -> bool:
        """Whether no refusal stands."""
        return not self._standing

    @property
    def refuses_writes(self) -> bool:
        """Whether a refusal stands that any write meets."""
        return not NO_WRITES.isdisjoint(self._standing)

    @property
    def can_be_proved(self) -> bool:
        """Whether a write that succeeds would end a refusal."""
        return not PROVED_BY_WRITING.isdisjoint(self._standing)

    def succeeded(self, commands: Iterable[Command]) -> None:
        """Note that these commands ran."""
        kinds = {_kind(command) for command in commands}
        for code, refusal in list(self._standing.items()):
            if refusal.kind in kinds:
                del self._standing[code]

    def proved(self) -> None:
        """Note that a write, the probe, succeeded."""
        for code in PROVED_BY_WRITING.intersection(self._standing):
            del self._standing[code]

    def problem(self, now: float, *, of_all: bool) -> str:
        """The words of the newest standing refusal that concerns all commands (`of_all`), or one
        kind of command; "" if none.
        """
        for code, refusal in list(self._standing.items()):
            if now - refusal.at > STANDS_SECONDS and code not in PROVED_BY_WRITING:
                del self._standing[code]
        found = [refusal for code, refusal in self._standing.items() if (code in WIDE) is of_all]
        return max(found, key=lambda refusal: refusal.at).text if found else ""

    def refusals(self) -> Mapping[str, int]:
        """How many commands were refused, by code."""
        return dict(self.counts)

    def look_at(self, commands: Sequence[Command], results: list[Any], now: float) -> Found | None:
        """Replace errors among the answers by ours, and note what they say about the store; return
        what else is to be done, None if there are no errors.
        """
        bad = [n for n, result in enumerate(results) if isinstance(result, Exception)]
        if not self.is_well:
            refused = set(bad)
            self.succeeded(command for n, command in enumerate(commands) if n not in refused)
        if not bad:
            return None
        found = Found()
        for n in bad:
            error = results[n]
            if not isinstance(error, ErrorAnswer):
                sent = error.sent if isinstance(error, Lost) else True
                results[n] = Unavailable(words_of(error), sent=sent)
                self.unreachable(words_of(error), now)
                found.is_unknown |= sent
                continue
            refusal = results[n] = StoreRefused(str(error))
            if refusal.code == FENCED:
                results[n] = Fenced(str(error))
                found.is_fenced = True
                continue
            self.refused(commands[n], refusal, now)
            if refusal.code in MOVE_ON:
                found.moves_on = refusal.plain
        return found


def _kind(command: Command) -> Any:
    """The kind of a command: its name; for a script, its digest."""
    return command[1] if command[0] == "EVALSHA" else command[0]
