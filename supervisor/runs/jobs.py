"""The values of a run: an accepted message or event, the app that it is for, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio
from attrs import define, field, frozen

from resources.contract import Refused
from resources.fence import fence, note
from resources.stores.errors import StoreError
from resources.stores.fencing import Fence, fenced
from resources.stores.journal import Entry
from resources.stores.outbox import OutboxFull

from ..config.model import App
from ..outcomes import Outcome

log = logging.getLogger(__name__)

Key = tuple[str, str, str]
"""An entry of a journal: account, app and place."""


@frozen
class Program:
    """An app as it runs now: its config, and the settings that its resources see.

    Attributes:
        broken: What is wrong in its files, so that it cannot run; empty if nothing.
    """

    app: App
    settings: Mapping[type, Any]
    broken: str = ""


@frozen
class Ended:
    """How a run ended.

    Attributes:
        outcome: None if nothing had to be run.
        ms: Milliseconds that it took.
        commands: How many commands it gave.
    """

    entry: Entry
    outcome: Outcome | None
    ms: float = 0.0
    commands: int = 0


Then = Callable[[], None]
"""Called when a run has ended and all that it sent was handed out."""


def nothing() -> None:
    """The `Then` of a run that nobody waits for."""


@define(eq=False)
class Job:
    """An accepted message or event.

    Attributes:
        place: Where it is in the journal.
        then: Called once, when its run has ended.
        is_recovered: It was found in the journal, so it may have been in progress when a supervisor
            died.
        is_begun: The journal has been asked to note that its run began.
        fence: What has to hold for its run to write, if several servers share the work.
        connection: Of the journal, when all that its run had sent was in the store.
        posted: What posts each outbound of its run again (`Caller.posted`).
    """

    entry: Entry
    place: str
    then: Then
    is_recovered: bool = False
    is_begun: bool = False
    fence: Fence | None = None
    since: float = field(factory=trio.current_time)
    connection: int = 0
    posted: Sequence[Callable[[], Awaitable[object]]] = ()

    @property
    def key(self) -> Key:
        """Identifies its entry."""
        return (self.entry.account, self.entry.app, self.place)

    def then_once(self) -> None:
        """Call `then`, if it was not called yet, and keep its errors here."""
        waiting, self.then = self.then, nothing
        try:
            waiting()
        except Exception as error:  # noqa: BLE001  # a fence, without the cost of one for each run
            note("run", error, f"app {self.entry.app}, after {self.entry.kind} {self.entry.id}")

    async def post_again(self, connection: int) -> None:
        """If the store may be another one since the run began, post again what the run has sent:
        a master that died may have taken it along. The store knows what it has by its id.

        Raises:
            StoreError: Not all of it was posted; repeating the call does no harm.
        """
        if connection == self.connection:
            return
        with fenced(self.fence):
            for post in self.posted:
                try:
                    await post()
                except (Refused, OutboxFull) as full:  # it may be there already
                    log.warning("%s %s: not sent again: %s", self.entry.kind, self.entry.id, full)
        self.connection = connection

    async def try_post_again(self, connection: int) -> None:
        """As `post_again`; raises nothing, and the log says what may be lost."""
        what = f"app {self.entry.app}, {self.entry.kind} {self.entry.id}"
        with fence("run", what):
            try:
                await self.post_again(connection)
            except StoreError as error:
                log.warning("%s: what it sent may be lost with the store: %s", what, error)
