"""Junebug's names of our messages, for events that may come before the answer to the post that they
are about.

What this server posts is known as soon as it is answered. What another server may have posted is
looked up in the store: for all events that wait at once, so that many which nobody knows cost no
more than a few.
"""

from __future__ import annotations

import trio
from attrs import define, field

from resources.fence import fence
from resources.stores.foreign_ids import ForeignIds
from resources.stores.redis import StoreError

FOUND_SECONDS = 2.0  # to learn a name
LOOK_SECONDS = 0.1  # between two look-ups of what another server may have posted
WAITING_MAX = 1000  # names that are waited for; others are looked up once


@define(eq=False)
class _Awaited:
    """A name that events wait for.

    Attributes:
        ours: Our message_id, once it is known.
        error: Why the store could not be asked.
        over: Set when there is nothing more to wait for.
        events: How many wait.
        was_asked: The store has been asked once.
    """

    ours: str | None = None
    error: StoreError | None = None
    over: trio.Event = field(factory=trio.Event)
    events: int = 0
    was_asked: bool = False


@define(eq=False)
class Names:
    """The names of one channel.

    Attributes:
        is_shared: Other servers may post, too.
    """

    _channel: str
    _ids: ForeignIds
    is_shared: bool
    posts: int = field(default=0, init=False)
    """Of this server, in progress."""
    _awaited: dict[str, _Awaited] = field(factory=dict, init=False)
    _asked: trio.Event = field(factory=trio.Event, init=False)  # one waits; then replaced

    async def find(self, theirs: str) -> str | None:
        """Our message_id for Junebug's name; None if it does not become known within
        `FOUND_SECONDS`, or if no posts are in progress. Raises StoreError.
        """
        awaited = self._awaited.get(theirs)
        if awaited is None and len(self._awaited) >= WAITING_MAX:
            return await self._ids.ours(self._channel, theirs)
        if awaited is None:
            awaited = self._awaited[theirs] = _Awaited()
        awaited.events += 1
        try:
            with trio.move_on_after(FOUND_SECONDS):
                return await self._find(theirs, awaited)
            return awaited.ours
        finally:
            awaited.events -= 1
            if not awaited.events:
                del self._awaited[theirs]

    async def _find(self, theirs: str, awaited: _Awaited) -> str | None:
        is_last = not self.posts and not self.is_shared
        if not awaited.was_asked:
            ours = await self._ids.ours(self._channel, theirs)
            awaited.was_asked = True
            if ours is not None or is_last:
                return ours
        if self.posts or self.is_shared:
            self._asked.set()
            await awaited.over.wait()
        if awaited.error is not None:
            raise awaited.error
        return awaited.ours

    async def note(self, theirs: str, ours: str) -> None:
        """Junebug has given this name to a message of ours: keep it, for all servers. Raises
        StoreError: only those that wait for it here have it.
        """
        try:
            await self._ids.remember(self._channel, theirs, ours)
        finally:
            if (awaited := self._awaited.get(theirs)) is not None:
                awaited.ours = ours
                awaited.over.set()

    def end_post(self) -> None:
        """A post of this server is no longer in progress."""
        self.posts -= 1
        if not self.posts and not self.is_shared:
            self._give_up()

    def end(self) -> None:
        """No post is in progress any more, and nobody waits."""
        self.posts = 0
        self._give_up()

    def _give_up(self) -> None:
        for awaited in self._awaited.values():
            awaited.over.set()

    async def keep_looking(self) -> None:
        """Look up what another server may have posted and events wait for, until cancelled."""
        while True:
            if not self._awaited:
                self._asked = trio.Event()
                await self._asked.wait()
            await trio.sleep(LOOK_SECONDS)
            with fence("gateway.http", f"channel {self._channel}, names of its messages"):
                await self._look_up()

    async def _look_up(self) -> None:
        waiting = {
            theirs: awaited
            for theirs, awaited in self._awaited.items()
            if awaited.was_asked and not awaited.over.is_set()
        }
        if not waiting:
            return
        try:
            found = await self._ids.many(self._channel, list(waiting))
        except StoreError as error:
            for awaited in waiting.values():
                awaited.error = error
                awaited.over.set()
            return
        for awaited, ours in zip(waiting.values(), found, strict=True):
            if ours is not None:
                awaited.ours = ours
                awaited.over.set()
