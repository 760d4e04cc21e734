"""Clients that are not let in: their token or channel is wrong. Who keeps trying is a client whose
config and ours differ, and its users get no answers; or somebody who guesses.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping

import trio
from attrs import define, field

from resources.text import visible

from ..config.model import Channel

WITHIN = 600.0  # seconds that are looked back
MANY = 3  # refused attempts within them; below, somebody has mistyped a token
KEPT = 1000  # newest attempts on a channel that are kept
LOGGED_EVERY = 60.0  # seconds between two lines of the log about the same channel
NAME_MAX = 100  # characters of a channel that does not exist
UNKNOWN = ""  # stands for all channels that do not exist, in metrics too


@define(eq=False)
class _Tries:
    """Attempts on one channel: when, and from where."""

    newest: deque[tuple[float, str]] = field(factory=lambda: deque(maxlen=KEPT))
    why: str = ""  # of the last one
    unlogged: int = 0
    logged_at: float = float("-inf")

    def lately(self) -> int:
        """How many there were."""
        since = trio.current_time() - WITHIN
        return sum(at >= since for at, _ in self.newest)


@define(eq=False)
class Refused:
    """Counts them, by channel."""

    _tries: OrderedDict[str, _Tries] = field(factory=OrderedDict, init=False)
    _log: logging.Logger = field(factory=lambda: logging.getLogger(__name__), init=False)

    def note(self, channel: str, address: str, why: str) -> None:
        """Note a client that was refused; `channel`: `UNKNOWN` if there is none of that name. The
        log has a bounded number of lines.
        """
        tries = self._tries.setdefault(channel, _Tries())
        now = trio.current_time()
        tries.newest.append((now, address))
        tries.why = visible(why[: 3 * NAME_MAX])
        tries.unlogged += 1
        if now - tries.logged_at >= LOGGED_EVERY:
            more = f" ({tries.unlogged} times since the last such line)" * (tries.unlogged > 1)
            self._log.warning("a client at %s was refused: %s%s", address, tries.why, more)
            tries.logged_at, tries.unlogged = now, 0

    def let_in(self, channel: str, address: str) -> None:
        """A client was let in: those that were refused at its address are no problem any more."""
        tries = self._tries.get(channel)
        if tries is not None:
            kept = [one for one in tries.newest if one[1] != address]
            tries.newest = deque(kept, maxlen=KEPT)

    def problems(self, channels: Mapping[str, Channel]) -> Iterator[tuple[str, str]]:
        """Each channel on which clients keep being refused, `UNKNOWN` too, and what is wrong."""
        for name, tries in list(self._tries.items()):
            if name != UNKNOWN and name not in channels:
                del self._tries[name]
            elif text := self._problem(tries):
                yield name, text

    def problem(self, channel: str) -> str:
        """What is wrong with clients of a channel; empty if few were refused."""
        tries = self._tries.get(channel)
        return "" if tries is None else self._problem(tries)

    def _problem(self, tries: _Tries) -> str:
        count = tries.lately()
        if count < MANY:
            return ""
        more = " or more" if count == KEPT else ""
        return (
            f"clients were refused {count}{more} times in {WITHIN / 60:.0f} minutes, the last at"
            f" {tries.newest[-1][1]}: {tries.why}"
        )
