"""Keep a search process alive, and ask it questions.

Theory of operation. `keep_alive` is a task that runs as long as the service: it starts a process,
reads its answers, and starts another when it ends. A question first takes a slot (there are as many
as the process has workers, and few for any one account). So a question that was sent is being
worked on, and `search.timeout` is a fair deadline for it. The slot belongs to the question, not to
the task that asked: it is freed by the answer or by the end of the process, even if that task was
cancelled.

A question past its deadline kills the process: nothing less can stop the engine. That question
fails and is refused for a while; the others in progress are asked again. When the process ends by
itself any of them may be the cause, so each is asked again alone. If one then ends it once more,
the files of its account's index are checked. A damaged index is built anew, and the question asked
once more; otherwise, or if that does not help, it fails like one past its deadline. What was killed
from outside is asked again alone, too, but counts as its own doing only after many times.

A question says whether the contacts of its account may have changed since the last answer about
them (`_news`), as this server knows what it has written itself.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import trio
from attrs import define, field, frozen

from resources.fence import fence
from resources.stores.contacts import Writes
from resources.stores.groups import Group
from resources.stores.redis import Unavailable
from resources.stores.search import CannotSearch, QueryError, dialogue
from resources.stores.search.process import WORKERS
from resources.text import is_clean

from ..config.model import SearchSettings
from ..errors import CannotStart
from ..host.process import SpawnFailed
from ..observe import Observer, Searched, SearchRestarted
from .asking import Asking, Slots
from .process import ARGV, Ended, Question, SearchProcess, open_search_process
from .refusals import Refusals

PER_ACCOUNT = 2  # questions of one account in progress at a time; more wait
# Seconds between restarts: first, and most, if the process answers nothing before it ends.
PAUSE = (0.02, 5.0)
START_TRIES = 3  # for the first process, if it ends by itself each time
PROCESS_SECONDS = 10.0  # that a question waits for a process
BUILD_SECONDS = 60.0  # that a question waits for an index to be built, if its command may
BUILD_PAUSE = (0.02, 0.5)  # seconds between two checks whether it is built: first, most
TRUST_SECONDS = 1.0  # from an answer, for which only writes of this server count as news
LOOKED_MAX = 10_000  # accounts of which it is known when they were last looked at
INSPECT_SECONDS = 120.0  # for the files of an index to be read
TROUBLES_SHOWN = 3  # accounts whose index cannot be built, in /readyz

log = logging.getLogger(__name__)


@frozen
class _End:
    """How a process ended.

    Attributes:
        text: The end of what it wrote to stderr, or why it was not started.
        code: Its exit code; None if it was not started.
        answered: How many questions it answered.
        is_final: It cannot be started at all.
    """

    text: str = ""
    code: int | None = None
    answered: int = 0
    is_final: bool = False


@define(eq=False)
class Search:
    """A `resources.stores.search.ContactSearch`. Made by `open_search`.

    Attributes:
        settings: May be replaced; the timeout and `while_building` apply from the next query on,
            the rest to the next process.
        writes: To be told when this server writes contacts; whether nobody else does.
    """

    settings: SearchSettings
    _observe: Observer
    _redis_url: str
    _folder: Path
    _accounts: Sequence[str]
    _argv: Sequence[str]
    _cwd: str = "/"
    writes: Writes = field(factory=Writes)
    _running: SearchProcess | None = field(default=None, init=False)
    _started: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _slots: Slots = field(factory=lambda: Slots(WORKERS), init=False)
    _alone: trio.Lock = field(factory=trio.Lock, init=False)
    _account_slots: dict[str, Slots] = field(factory=dict, init=False)
    _refusals: Refusals = field(factory=Refusals, init=False)
    # by account, when an answer had all changes: the number of the latest write, and the time
    _looked: dict[str, tuple[int, float]] = field(factory=dict, init=False)
    _numbers: itertools.count[int] = field(factory=itertools.count, init=False)

    def problem(self) -> str:
        """Why questions, or those of some accounts, cannot be answered now; empty if they can."""
        if self._running is None:
            return "the search process is being started again"
        troubles = [
            f"the contacts of account {account} cannot be searched: {reason}"
            for account, reason in self._running.troubles.items()
        ]
        more = len(troubles) - TROUBLES_SHOWN
        return "; ".join(troubles[:TROUBLES_SHOWN]) + (f"; and {more} more" if more > 0 else "")

    async def keys_json(self, account: str, query: str, limit: int | None) -> msgspec.Raw:
        """See ContactSearch."""
        pages = await self._find(account, query, 0, limit)
        if len(pages) == 1:
            return pages[0].keys
        return msgspec.Raw(b"[" + b",".join([memoryview(page.keys)[1:-1] for page in pages]) + b"]")

    async def page(self, account: str, query: str, after: int, limit: int) -> tuple[list[str], int]:
        """See ContactSearch."""
        pages = await self._find(account, query, after, limit)
        return [key for page in pages for key in msgspec.json.decode(page.keys)], pages[-1].last

    async def count(self, account: str, query: str) -> int:
        """See ContactSearch."""
        news, looked = self._news(account)
        seconds = self.settings.timeout
        request = dialogue.Count(next(self._numbers), account, query, seconds, news)
        (answer,) = await self._ask(request)
        self._note_looked(request, looked)
        return cast("dialogue.Number", answer).count

    async def groups(self, account: str, query: str) -> list[Group]:
        """See ContactSearch."""
        seconds = self.settings.timeout
        request = dialogue.FindGroups(next(self._numbers), account, query, seconds)
        (answer,) = await self._ask(request)
        return cast("list[Group]", cast("dialogue.Groups", answer).groups)

    async def follow(self, accounts: Sequence[str]) -> None:
        """Set the accounts whose contacts are indexed from now on. The process has
        `search.timeout` to read them, or is killed: the next one begins with them.
        """
        self._accounts = accounts
        if self._running is not None:
            await self._running.follow(accounts, self.settings.timeout)

    async def _find(
        self, account: str, query: str, after: int, limit: int | None
    ) -> list[dialogue.Keys]:
        # A query for no keys is checked, too.
        most = limit or 1 if limit is not None else None
        news, looked = self._news(account)
        number, seconds = next(self._numbers), self.settings.timeout
        request = dialogue.Find(number, account, query, seconds, after, most, news)
        pages = await self._ask(request)
        self._note_looked(request, looked)
        if limit == 0:
            return [dialogue.Keys(0, dialogue.NO_KEYS, after, more=False)]
        return cast("list[dialogue.Keys]", pages)

    def _news(self, account: str) -> tuple[dialogue.News, tuple[int, float]]:
        """Whether contacts of an account may have changed since the last answer, and what to note
        if there is an answer now.
        """
        latest, now = self.writes.latest(account), trio.current_time()
        before, since = self._looked.get(account, (-1, now))
        if before != latest:
            return "some", (latest, now)
        is_known = self.writes.are_all and now - since < TRUST_SECONDS
        return "none" if is_known else "unlikely", (latest, now)

    def _note_looked(self, request: dialogue.Find | dialogue.Count, now: tuple[int, float]) -> None:
        """There is an answer; if the process read the store for it, it had all changes."""
        if request.news != "none":
            if len(self._looked) >= LOOKED_MAX:
                self._looked.clear()
            self._looked[request.account] = now

    async def _ask(self, request: dialogue.Query) -> list[dialogue.Reply]:
        """Ask until there is an answer, or a reason why there will be none."""
        if not is_clean(request.query):
            raise QueryError(None, "it has half of a surrogate pair, which is no character")
        began, outcome = trio.current_time(), "cancelled"
        slots = self._account_slots.setdefault(request.account, Slots(PER_ACCOUNT))
        try:
            await slots.take()
            try:
                answers = await self._ask_until_built(request)
            finally:
                slots.give()
                if slots.is_idle:
                    self._account_slots.pop(request.account, None)
        except QueryError:
            outcome = "refused"
            raise
        except (CannotSearch, Unavailable):
            outcome = "unavailable"
            raise
        else:
            outcome = "ok"
            return answers
        finally:
            self._observe(Searched(outcome, trio.current_time() - began))

    async def _ask_until_built(self, request: dialogue.Query) -> list[dialogue.Reply]:
        asking = Asking(request)
        latest, pause = trio.current_time() + BUILD_SECONDS, BUILD_PAUSE[0]
        while True:
            answers = await self._ask_until_answered(asking)
            failed = answers[-1]
            if not isinstance(failed, dialogue.Failed):
                return answers
            match failed.why:
                case "query" | "engine":
                    raise QueryError(failed.position, failed.text)
                case "store":
                    raise Unavailable(failed.text, sent=False)
                case "index":
                    raise CannotSearch(failed.text)
            if self.settings.while_building == "fail" or trio.current_time() > latest:
                raise CannotSearch(f"The contacts cannot be searched at the moment: {failed.text}")
            await trio.sleep(pause)
            pause = min(pause * 1.5, BUILD_PAUSE[1])

    async def _ask_until_answered(self, asking: Asking) -> list[dialogue.Reply]:
        """Ask again if the process ended, and find out whether this question was the cause."""
        request = asking.request
        while True:
            self._refusals.check(request)
            try:
                if not asking.crashes and not asking.kills:
                    return await self._ask_once(request, slots=1)
                async with self._alone:
                    return await self._ask_once(request, slots=WORKERS)
            except Ended as ended:
                asking.note(ended)  # if its own deadline was the cause, it is refused now
            if asking.is_suspect and (asking.was_inspected or not await self._is_damaged(request)):
                self._refusals.add(request, "the query ended the search process")
            asking.was_inspected = asking.was_inspected or asking.is_suspect

    async def _is_damaged(self, request: dialogue.Query) -> bool:
        """Whether the index that a question was about is damaged; if so it is built anew."""
        number, account = next(self._numbers), request.account
        inspect = dialogue.Inspect(number, account)
        try:
            (answer,) = await self._ask_once(inspect, slots=1, seconds=INSPECT_SECONDS)
        except Ended:
            return False  # of all questions it is still the one that ended the process twice
        damage = answer.damage if isinstance(answer, dialogue.Inspected) else ""
        log.warning(
            "account %s: a query ended the search process twice; its index is %s",
            account, f"damaged, and built anew: {damage}" if damage else "whole",
        )  # fmt: skip
        return bool(damage)

    async def _ask_once(
        self, request: dialogue.Question, *, slots: int, seconds: float | None = None
    ) -> list[dialogue.Reply]:
        """Ask a running process, once there are free slots. Raises Ended."""
        taken = 0

        def give_back() -> None:
            for _ in range(taken):
                self._slots.give()

        try:
            while taken < slots:
                await self._slots.take()
                taken += 1
            running = self._running or await self._process()
        except BaseException:
            give_back()
            raise
        deadline = trio.current_time() + (seconds or self.settings.timeout)
        return await running.ask(Question(request, deadline, give_back))

    async def _process(self) -> SearchProcess:
        """Wait for a running process. Raises CannotSearch."""
        with trio.move_on_after(PROCESS_SECONDS):
            while self._running is None:
                await self._started.park()
            return self._running
        raise CannotSearch("The search process cannot be started at the moment")

    def _on_guilty(self, request: dialogue.Question) -> None:
        if isinstance(request, dialogue.Inspect):
            return
        limit = f"search.timeout = {self.settings.timeout:g} s"
        self._refusals.add(request, f"the query took longer than {limit}")

    async def keep_alive(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep a process running, for ever.

        Raises:
            CannotStart: The first one does not start; it was not killed, and the host is not short
                of something.
        """
        pause, is_first, failures = PAUSE[0], True, 0

        def started() -> None:
            nonlocal is_first
            if is_first:
                task_status.started()
            is_first = False

        while True:
            end = await self._run_process(started)
            failures += is_first and end.code is not None and end.code > 0  # it ended by itself
            if is_first and (end.is_final or failures >= START_TRIES):
                said = end.text or "it said nothing"
                raise CannotStart(f"the search process did not start: {said}")
            if end.answered:
                pause = PAUSE[0]
            log.warning(
                "the search process ended (%s); starting another in %.2f s%s",
                end.code, pause, end.text and f": {end.text}",
            )  # fmt: skip
            self._observe(SearchRestarted())
            await trio.sleep(pause)
            pause = min(pause * 2, PAUSE[1])

    async def _run_process(self, started: Callable[[], None]) -> _End:
        """Run a process until it ends; call `started` when it is ready. Whatever it says, or we do
        wrong with it, ends only this process.
        """
        end = _End()
        with fence("search", "its process"):
            try:
                async with open_search_process(
                    self._argv, self.settings.memory, self._begin(), self._on_guilty, self._cwd
                ) as running:
                    if running.was_ready:
                        started()
                        self._running = running
                        self._started.unpark_all()
                        try:
                            await running.read()
                        finally:
                            self._running = None
                text = "\n".join(running.said).strip()
                end = _End(text, running.process.returncode, running.answered)
            except SpawnFailed as error:
                end = _End(str(error), is_final=error.is_final)
        return end

    def _begin(self) -> dialogue.Begin:
        settings = self.settings
        return dialogue.Begin(
            self._redis_url,
            str(self._folder.absolute()),
            list(self._accounts),
            settings.open_indexes,
            settings.idle_close,
            [],  # made with the process
        )


@asynccontextmanager
async def open_search(
    settings: SearchSettings,
    redis_url: str,
    folder: Path,
    accounts: Sequence[str],
    observe: Observer,
    argv: Sequence[str] = ARGV,
    cwd: str = "/",
) -> AsyncIterator[Search]:
    """Keep a search process running in `cwd` for as long as the block runs; it is ready when the
    block begins. Its indexes are kept below `folder`.

    Raises:
        CannotStart: It did not start.
    """
    search = Search(settings, observe, redis_url, folder, accounts, argv, cwd)
    async with trio.open_nursery() as nursery:
        await nursery.start(search.keep_alive)
        try:
            yield search
        finally:
            nursery.cancel_scope.cancel()
