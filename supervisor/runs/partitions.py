"""The partitions of the journals that fall to this server, if several share the work: takes them,
reads them, gives them back.

A partition falls to one of the servers that live, by rendezvous hashing. Whoever takes it reads all
that it holds, in order; from then on it reads on whenever something was accepted there, whichever
server accepted it. It gives a partition back when the runs that it began there have ended. What a
server accepted and another runs is remembered here until the other says how it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

import trio
from attrs import define, field

from resources.fence import fence
from resources.stores.errors import Fenced, StoreError
from resources.stores.journal import Entry, Journal, Left
from resources.stores.partitions import (
    Ownership,
    Part,
    Taken,
    fence_of,
    first_of,
    host_of,
    parts_of,
    split_place,
)
from resources.stores.peers import Peers

from .brought import Brought, told_of
from .dead_letters import DeadLetterBox
from .jobs import Ended, Job, Key, Program, Then, nothing
from .owned import Owned, part_of

RETRY = (0.1, 2.0)  # seconds between attempts: first, most
AGAIN = 0.2  # seconds until a partition that another server still has is asked for again
READ_AT_ONCE = 50  # partitions

log = logging.getLogger(__name__)


class Line(Protocol):
    """The dispatcher, as seen from here."""

    programs: Mapping[str, Program]

    def is_known(self, key: Key) -> bool:
        """Whether an entry waits or is in progress."""

    def take_on(self, job: Job) -> None:
        """Put an entry in line."""

    def tell_of(self, job: Job, ended: Ended) -> None:
        """Announce how a job ended."""

    def drop_waiting(self, app: str, matches: Callable[[Job], bool]) -> None:
        """Leave what waits for an app to the journal."""


@define(eq=False)
class Partitions:
    """Keeps our partitions and the line in step. `run` does the work in the background."""

    _journal: Journal
    _peers: Peers
    _ownership: Ownership
    _box: DeadLetterBox
    _line: Line
    attempts: int = 3
    """How often a server may die while an entry is in progress; then it is not run again."""
    # that live and take partitions
    _hosts: Sequence[str] = field(factory=tuple, init=False)
    _alive: Collection[str] = field(factory=tuple, init=False)  # hosts and processes
    _owned: dict[Part, Owned] = field(factory=dict, init=False)
    brought: Brought = field(init=False)
    """What we accepted."""
    _found: int = field(default=0, init=False)
    _is_counted: bool = field(default=False, init=False)  # the dead letters
    _started: trio.Event = field(factory=trio.Event, init=False)
    _work: trio.Event = field(factory=trio.Event, init=False)
    _bell: trio.Event = field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.brought = Brought(self._journal, self._line)

    @property
    def host(self) -> str:
        """Who we are."""
        return self._journal.host

    @property
    def count(self) -> int:
        """How many partitions we own."""
        return len(self._owned)

    def follow(self, takers: Sequence[str], alive: Collection[str]) -> None:
        """Divide the partitions among these hosts from now on. `alive`: the hosts and processes of
        all that live.
        """
        self._hosts, self._alive = takers, alive
        self._work.set()

    def submit(self, entry: Entry, place: str, then: Then) -> None:
        """We have accepted an entry: its owner runs it."""
        self.brought.add((entry.account, entry.app, place), entry, then)
        self.ring(entry.account, entry.app, split_place(place)[0])

    def ring(self, account: str, app: str, name: str) -> None:
        """Something was accepted into a partition."""
        owned = self._owned.get(Part(account, app, name))
        if owned is not None:
            owned.is_rung = True
            self._bell.set()

    def missed(self) -> None:
        """We may have missed that something was accepted, or has ended."""
        for owned in self._owned.values():
            owned.is_rung = True
        self._bell.set()
        self.brought.look_soon()

    def missed_by_all(self) -> None:
        """So may all others."""
        self.missed()
        for one in self._alive:
            if one != self._journal.me:
                self._peers.tell_soon(one.partition(" ")[0], ("look",))

    def look_soon(self, apps: Collection[str]) -> None:
        """Read again what the journals of these apps hold."""
        for owned in self._owned.values():
            if owned.part.app in apps:
                owned.rewind()
        self._bell.set()
        self._work.set()

    def let_go(self, job: Job) -> None:
        """A job is in line no more, and has not ended: it stays in the journal."""
        self._close(job)

    async def end(self, job: Job, ended: Ended) -> bool:
        """Record how a run ended, however long that takes, and tell who accepted its entry; return
        False if another server owns the partition: then it is for that one to say.
        """
        entry, pause = job.entry, RETRY[0]
        assert job.fence is not None
        told = told_of(ended)
        tell = self._to_tell(entry)
        while True:
            try:
                is_unheard = await self._journal.end(entry, job.place, job.fence, told, tell)
                break
            except Fenced as error:
                log.warning("app %s: %s %s: %s", entry.app, entry.kind, entry.id, error)
                return False
            except StoreError as error:
                if pause == RETRY[0]:  # else it is logged already
                    log.warning("the end of %s %s is not recorded: %s", entry.kind, entry.id, error)
            await trio.sleep(pause)
            pause = min(pause * 2, RETRY[1])
        owned = self._close(job)
        if owned is not None and owned.is_first:
            owned.ended.add(job.place)
        if not tell or is_unheard:
            self._announce(job, ended)
        return True

    async def start(self) -> int:
        """Take what falls to us, and put in line what it holds; return the number of entries."""
        pause = RETRY[0]
        while True:
            try:
                await self._settle()
                await self._read()
                await self._count_letters()
            except StoreError as error:
                log.warning("the journals cannot be read: %s", error)
                await trio.sleep(pause)
                pause = min(pause * 2, RETRY[1])
            else:
                self._started.set()
                return self._found

    async def run(self) -> None:
        """Take, read and give back, from the end of `start` until cancelled."""
        await self._started.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, self._settle_often)
            nursery.start_soon(self._keep, self._read_when_rung)
            nursery.start_soon(self._keep, self.brought.look)

    async def _keep(self, task: Callable[[], Awaitable[None]]) -> None:
        """Do something again and again, after a pause if the store failed."""
        pause = RETRY[0]
        while True:
            with fence("partitions"):
                try:
                    await task()
                    pause = RETRY[0]
                    continue
                except StoreError as error:
                    log.warning("the journals cannot be worked on: %s", error)
            await trio.sleep(pause)
            pause = min(pause * 2, RETRY[1])

    async def _settle_often(self) -> None:
        await self._count_letters()
        if await self._settle():
            await self._work.wait()
        else:
            with trio.move_on_after(AGAIN):
                await self._work.wait()
        self._work = trio.Event()

    async def _count_letters(self) -> None:
        if not self._is_counted:
            await self._box.refresh()
            self._is_counted = True

    async def _settle(self) -> bool:
        """Give back what does not fall to us, and take what does; return whether that is done."""
        mine = await self._fallen()
        for part, owned in list(self._owned.items()):
            if part not in mine:
                await self._leave(owned)
            elif owned.is_leaving:
                owned.is_leaving = False
                self.look_soon([part.app])
        wanted = [(part, b"") for part in mine if part not in self._owned]
        left = await self._take(wanted)
        dead = [(part, owner) for part, owner in left if not await self._lives(owner)]
        if dead:
            left = await self._take(dead) + [one for one in left if one not in dead]
        return not left and not any(owned.is_leaving for owned in self._owned.values())

    async def _fallen(self) -> set[Part]:
        """The partitions that fall to us."""
        mine, count = set[Part](), self._journal.partitions
        for number, program in enumerate(list(self._line.programs.values())):
            app = program.app
            for part in parts_of(app.account, app.name, count):
                if first_of(self._hosts, str(part)) == self.host:
                    mine.add(part)
            if number % READ_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return mine

    async def _take(self, wanted: Sequence[tuple[Part, bytes]]) -> list[tuple[Part, bytes]]:
        """Take partitions; return those that others have, with their owners."""
        left = list[tuple[Part, bytes]]()
        refused: StoreError | None = None
        answers = await self._ownership.take(wanted)
        for (part, _), answer in zip(wanted, answers, strict=True):
            match answer:
                case Taken(owner, True):
                    self._owned[part] = Owned(part, owner)
                    self._bell.set()
                case Taken(owner, False):
                    left.append((part, owner))
                case StoreError():
                    refused = answer
        if refused is not None:
            raise refused
        return left

    async def _lives(self, owner: bytes) -> bool:
        """Whether an owner lives; if not, it is made sure that it never does again."""
        host, process = host_of(owner)
        if await self._peers.lives(host, process):
            return True
        await self._peers.bury(host)
        return await self._peers.lives(host, process)

    async def _leave(self, owned: Owned) -> None:
        """Begin no more runs of a partition, and give it back when those in progress have ended."""
        part = owned.part
        if not owned.is_leaving:
            owned.is_leaving = True
            self._line.drop_waiting(part.app, lambda job: part_of(job) == part)
        if not owned.open:
            await self._ownership.give(part, owned.owner)
            del self._owned[part]

    async def _read_when_rung(self) -> None:
        await self._bell.wait()
        self._bell = trio.Event()
        try:
            await self._read()
        except BaseException:
            self._bell.set()
            raise

    async def _read(self) -> None:
        """Put in line what was accepted since, of all that was rung."""
        while rung := [
            each for each in self._owned.values() if each.is_rung and not each.is_leaving
        ]:
            some = rung[:READ_AT_ONCE]
            for each in some:
                each.is_rung = False
            rewound = [each.rewound for each in some]
            try:
                pages = await self._journal.pages(
                    [(each.part, each.last, each.is_first and not each.last) for each in some]
                )
                for each, (left, is_full, begun), before in zip(some, pages, rewound, strict=True):
                    if await self._take_on(each, left, begun, before):
                        each.is_rung = each.is_rung or is_full
                        if not is_full and each.is_first:
                            await self._read_through(each)
            except BaseException:
                for each in some:
                    each.is_rung = True
                raise

    async def _take_on(
        self, owned: Owned, page: Sequence[Left], begun: Mapping[str, int], rewound: int
    ) -> bool:
        """Put a page in line; return False if it is not wanted any more."""
        part = owned.part
        if owned.rewound == rewound:
            owned.begun.update(begun)
        for left in page:
            if owned.is_leaving or owned.rewound != rewound or self._owned.get(part) is not owned:
                return False
            deaths = owned.begun.pop(left.place, 0) if owned.is_first else 0
            key = (part.account, part.app, left.place)
            if self._line.is_known(key) or left.place in owned.ended:
                pass
            elif left.entry is None or left.problem or deaths >= self.attempts:
                await self._set_aside(left, part, deaths)
            else:
                job = Job(left.entry, left.place, nothing, is_recovered=owned.is_first)
                via = left.entry.via.partition(" ")[0]
                job.fence = fence_of(part, owned.owner, via)
                self._found += owned.is_first
                owned.open.add(left.place)
                self._line.take_on(job)
            if owned.rewound == rewound:
                owned.last = left.place
        return not owned.is_leaving and owned.rewound == rewound

    async def _read_through(self, owned: Owned) -> None:
        """All that a partition held when we took it is in line."""
        gone, owned.begun = list(owned.begun), {}
        owned.is_first = False
        owned.ended.clear()
        part = owned.part
        if gone:
            await self._journal.forget_begun(part.account, part.app, gone, part.name)

    async def _set_aside(self, left: Left, part: Part, deaths: int) -> None:
        program = self._line.programs.get(part.app)
        if program is None:
            return
        ended = await self._box.set_aside(program, left, deaths)
        if ended is None:
            return
        entry = ended.entry
        if tell := self._to_tell(entry):
            told = (entry.account, entry.app, left.place, told_of(ended))
            self._peers.tell_soon(tell, ("ended", *told))
        else:
            self._announce(Job(entry, left.place, nothing), ended)

    def _to_tell(self, entry: Entry) -> str:
        """The host that took an entry in, if the process that did lives and is not ours."""
        is_there = entry.via in self._alive and entry.via != self._journal.me
        return entry.via.partition(" ")[0] if is_there else ""

    def _announce(self, job: Job, ended: Ended) -> None:
        """Announce an end here; whoever accepted the entry here gets its credit back."""
        job.then = self.brought.take(job.key, ours=job.entry.via == self._journal.me)
        self._line.tell_of(job, ended)

    def _close(self, job: Job) -> Owned | None:
        owned = self._owned.get(part_of(job))
        if owned is not None:
            owned.open.discard(job.place)
            if owned.is_leaving:
                self._work.set()
        return owned
