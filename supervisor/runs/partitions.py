"""The partitions of the journals that fall to this server, if several share the work: reads them,
and records how what they hold has ended.

A partition falls to one of the servers that live, by rendezvous hashing. Whoever takes it reads all
that it holds, in order; from then on it reads on whenever something was accepted there, whichever
server accepted it. It gives a partition back when the runs that it began there have ended. What a
server accepted and another runs is remembered here until the other says how it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from math import inf
from typing import Protocol

import trio
from attrs import define, field

from resources.fence import fence
from resources.stores.errors import Fenced, StoreError, StoreRefused
from resources.stores.journal import Entry, Journal, Left
from resources.stores.partitions import Ownership, Part, fence_of, split_place
from resources.stores.peers import Peers

from .brought import Brought, told_of
from .dead_letters import DeadLetterBox
from .holdings import REFUSED_AGAIN, Bury, Holdings
from .jobs import Ended, Job, Key, Program, Then, nothing
from .owned import Owned, part_of

RETRY = (0.1, 2.0)  # seconds between attempts: first, most
READ_AT_ONCE = 50  # partitions
TRIES = 3  # to record the end of a run, if errors of ours prevent it

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
    _holdings: Holdings = field(init=False)
    _alive: Collection[str] = field(factory=tuple, init=False)  # hosts and processes
    brought: Brought = field(init=False)
    """What we accepted."""
    _found: int = field(default=0, init=False)
    _is_counted: bool = field(default=False, init=False)  # the dead letters
    _is_told: bool = field(default=False, init=False)  # that they cannot be
    _started: trio.Event = field(factory=trio.Event, init=False)
    _work: trio.Event = field(factory=trio.Event, init=False)
    _bell: trio.Event = field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.brought = Brought(self._journal, self._line)
        self._holdings = Holdings(
            peers=self._peers,
            ownership=self._ownership,
            line=self._line,
            host=self.host,
            count=self._journal.partitions,
            taken=self._ring,
        )

    @property
    def host(self) -> str:
        """Who we are."""
        return self._journal.host

    @property
    def count(self) -> int:
        """How many partitions we own."""
        return len(self._owned)

    @property
    def bury(self) -> Bury:
        """See `Holdings.bury`."""
        return self._holdings.bury

    @bury.setter
    def bury(self, bury: Bury) -> None:
        self._holdings.bury = bury

    @property
    def parts(self) -> int:
        """How many partitions each journal has."""
        return self._journal.partitions

    @property
    def _owned(self) -> dict[Part, Owned]:
        return self._holdings.all

    def follow(self, takers: Sequence[str], alive: Collection[str]) -> None:
        """Divide the partitions among these hosts from now on. `alive`: the hosts and processes of
        all that live.
        """
        self._holdings.hosts, self._alive = takers, alive
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

    def _ring(self) -> None:
        self._bell.set()

    def missed(self) -> None:
        """We may have missed that something was accepted, or has ended."""
        for owned in self._owned.values():
            owned.is_rung = True
        self._bell.set()
        self.brought.look_soon()

    def doubt(self) -> None:
        """The connection to the store was lost: it may be another now, to which not all had come
        that was struck, taken or given back.
        """
        self._holdings.is_doubtful = True
        self.look_soon([owned.part.app for owned in self._owned.values()])
        self.missed_by_all()

    def missed_by_all(self) -> None:
        """Every server may have missed something: have all of them look."""
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

    async def record(self, job: Job, ended: Ended) -> None:
        """Record how a run ended, however long that takes, and tell who accepted its entry, unless
        another server owns the partition: then it is for that one to say. If an error of ours
        prevents that each time, the entry stays in the journal, and its end is announced here.
        """
        entry = job.entry
        for _ in range(TRIES):  # doing it twice does no harm
            with fence("run", f"{entry.app}: the end of {entry.kind} {entry.id}") as caught:
                await self._end(job, ended)
            if caught.error is None:
                return
        self._close(job)
        self._line.tell_of(job, ended)

    async def _end(self, job: Job, ended: Ended) -> None:
        entry, pause = job.entry, RETRY[0]
        assert job.fence is not None
        told = told_of(ended)
        tell = self._to_tell(entry)
        is_unheard = False
        while True:
            try:
                await job.post_again(self._journal.connection)
                is_unheard |= await self._journal.end(entry, job.place, job.fence, told, tell)
                if job.connection == self._journal.connection:
                    break  # else it may have become another store meanwhile
            except Fenced as error:
                log.warning("app %s: %s %s: %s", entry.app, entry.kind, entry.id, error)
                return
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

    async def start(self) -> int:
        """Take what falls to us, and put in line what it holds; return the number of entries. What
        the store refuses is asked for again by `run`.
        """
        pause = RETRY[0]
        while True:
            try:
                await self._settle()
                await self._read()
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
        with trio.move_on_after(await self._settle()):
            await self._work.wait()
        self._work = trio.Event()

    async def _settle(self) -> float:
        """See `Holdings.settle`."""
        programs = list(self._line.programs.values())
        again = await self._holdings.settle([(one.app.account, one.app.name) for one in programs])
        if not self._is_counted:
            try:
                await self._box.refresh()
                self._is_counted = True
            except StoreRefused as error:
                if not self._is_told:
                    log.warning("the dead letters cannot be counted: %s", error)
                self._is_told = True
                again = min(again, REFUSED_AGAIN)
        return again

    async def _read_when_rung(self) -> None:
        with trio.move_on_at(min((one.again for one in self._owned.values()), default=inf)):
            await self._bell.wait()
        self._bell = trio.Event()
        for owned in self._owned.values():
            if owned.again <= trio.current_time():
                owned.rewind()
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
            try:
                await self._read_some(some)
            except StoreRefused:
                for each in some:
                    try:
                        await self._read_some([each])
                    except StoreRefused as error:
                        each.is_rung = False
                        self._doubt(each, error)

    async def _read_some(self, some: Sequence[Owned]) -> None:
        """Read a page of each."""
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

    def _doubt(self, owned: Owned, error: StoreRefused) -> None:
        """The store refuses something of a partition, which is read again later."""
        owned.again = trio.current_time() + REFUSED_AGAIN
        if owned.problem != str(error):
            part = owned.part
            log.warning("app %s: partition %r of its journal: %s", part.app, part.name, error)
        owned.problem = str(error)

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
                try:
                    await self._set_aside(left, part, deaths)
                except StoreRefused as error:  # what comes after it is run all the same
                    self._doubt(owned, error)
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
        if owned.again == inf:
            owned.problem = ""
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
