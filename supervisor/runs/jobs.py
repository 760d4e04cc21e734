"""The values of a run: an accepted message or event, the app that it is for, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio
from attrs import define, field, frozen

from resources.stores.fencing import Fence
from resources.stores.journal import Entry

from ..config.model import App
from ..outcomes import Outcome

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
    """

    entry: Entry
    place: str
    then: Then
    is_recovered: bool = False
    is_begun: bool = False
    fence: Fence | None = None
    since: float = field(factory=trio.current_time)

    @property
    def key(self) -> Key:
        """Identifies its entry."""
        return (self.entry.account, self.entry.app, self.place)
