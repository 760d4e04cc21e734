"""The partitions that this server owns, of those that several share: takes what falls to it, gives
back what does not.

A partition that the store refuses to hand over is asked for again later, and holds up no other.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Protocol

import trio
from attrs import define, field

from resources.stores.errors import StoreError, StoreRefused
from resources.stores.partitions import Ownership, Part, Taken, first_of, host_of, parts_of
from resources.stores.peers import Peers

from .jobs import Job
from .owned import Owned, part_of

AGAIN = 0.2  # seconds until a partition that another server still has is asked for again
REFUSED_AGAIN = 2.0  # seconds until the store is asked again for what it has refused
APPS_AT_ONCE = 50  # whose partitions are divided between two checkpoints

log = logging.getLogger(__name__)


Bury = Callable[[str], Awaitable[None]]


async def _bury_nothing(_: str) -> None:
    """The `bury` of one that does not know of the others yet."""


class Line(Protocol):
    """The dispatcher, as seen from here."""

    def drop_waiting(self, app: str, matches: Callable[[Job], bool]) -> None:
        """Leave what waits for an app to the journal."""


@define(eq=False)
class Holdings:
    """The partitions of this server. `settle` is called when something may have changed.

    Attributes:
        host: Who we are.
        hosts: The hosts that live and take partitions.
        all: What we own.
        taken: Called when a partition has become ours.
        is_doubtful: The store may have gone back in time.
        bury: Clears away what a dead host left, before its partitions are taken.
    """

    _peers: Peers
    _ownership: Ownership
    _line: Line
    host: str
    count: int  # of each journal
    taken: Callable[[], None]
    hosts: Sequence[str] = field(factory=tuple, init=False)
    all: dict[Part, Owned] = field(factory=dict, init=False)
    is_doubtful: bool = field(default=False, init=False)
    bury: Bury = field(default=_bury_nothing, init=False)
    _problem: str = field(default="", init=False)

    async def settle(self, apps: Sequence[tuple[str, str]]) -> float:
        """Give back what does not fall to us, and take what does.

        Args:
            apps: Accounts and names.

        Returns:
            After how many seconds there is more to do; `inf` if all is done.

        Raises:
            StoreError: The store did not answer.
        """
        mine, problem = await self._fallen(apps), ""
        for part, owned in list(self.all.items()):
            if part not in mine:
                problem = await self._leave(owned) or problem
            elif owned.is_leaving:
                owned.is_leaving = False
                owned.rewind()
                self.taken()
        if self.is_doubtful:
            await self._give_back_forgotten(apps, mine)
            self.is_doubtful = False
        left, refused = await self._take([(part, b"") for part in mine if part not in self.all])
        dead, doubtful = await self._dead(left)
        if dead:
            still, why = await self._take(dead)
            left = still + [one for one in left if one not in dead]
            refused = refused or why
        self._say(problem or refused or doubtful)
        if self._problem:
            return REFUSED_AGAIN
        is_done = not left and not any(owned.is_leaving for owned in self.all.values())
        return inf if is_done else AGAIN

    async def _fallen(self, apps: Sequence[tuple[str, str]]) -> set[Part]:
        """The partitions that fall to us."""
        mine = set[Part]()
        for number, (account, app) in enumerate(apps):
            for part in parts_of(account, app, self.count):
                if first_of(self.hosts, str(part)) == self.host:
                    mine.add(part)
            if number % APPS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return mine

    async def _give_back_forgotten(self, apps: Sequence[tuple[str, str]], mine: set[Part]) -> None:
        """A store that went back in time may have us as the owner of what we have given back."""
        others = [
            part
            for account, app in apps
            for part in parts_of(account, app, self.count)
            if part not in mine and part not in self.all
        ]
        for part, owner in zip(others, await self._ownership.owners(others), strict=True):
            if " ".join(host_of(owner)) == self._ownership.me:
                await self._ownership.give(part, owner)

    async def _take(
        self, wanted: Sequence[tuple[Part, bytes]]
    ) -> tuple[list[tuple[Part, bytes]], str]:
        """Take partitions; return those that others have, with their owners, and why the store
        refused any.
        """
        left, problem = list[tuple[Part, bytes]](), ""
        answers = await self._ownership.take(wanted)
        for (part, _), answer in zip(wanted, answers, strict=True):
            match answer:
                case Taken(owner, True):
                    self.all[part] = Owned(part, owner)
                    self.taken()
                case Taken(owner, False):
                    left.append((part, owner))
                case StoreError():
                    problem = f"partition {part} cannot be taken: {answer}"
        return left, problem

    async def _dead(
        self, left: Sequence[tuple[Part, bytes]]
    ) -> tuple[list[tuple[Part, bytes]], str]:
        """Those whose owners are dead, and why that is not known of others."""
        lives, problem = dict[tuple[str, str], bool](), ""
        for host, process in dict.fromkeys(host_of(owner) for _, owner in left):
            try:
                lives[host, process] = await self._lives(host, process)
            except StoreRefused as error:
                lives[host, process] = True
                problem = f"whether host {host[:100]!r} lives cannot be seen: {error}"
        return [(part, owner) for part, owner in left if not lives[host_of(owner)]], problem

    async def _lives(self, host: str, process: str) -> bool:
        """Whether an owner lives; if not, it is made sure that it never does again."""
        if await self._peers.lives(host, process):
            return True
        await self._peers.bury(host)
        if await self._peers.lives(host, process):
            return True
        await self.bury(host)
        return False

    async def _leave(self, owned: Owned) -> str:
        """Begin no more runs of a partition, and give it back when those in progress have ended;
        return why the store refuses that.
        """
        part = owned.part
        if not owned.is_leaving:
            owned.is_leaving = True
            self._line.drop_waiting(part.app, lambda job: part_of(job) == part)
        if owned.open:
            return ""
        try:
            await self._ownership.give(part, owned.owner)
        except StoreRefused as error:
            return f"partition {part} cannot be given back: {error}"
        del self.all[part]
        return ""

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s; it is tried again", problem)
        self._problem = problem
