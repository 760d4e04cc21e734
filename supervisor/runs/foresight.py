"""What an app reads first, read before it asks: most apps begin each run with the state that they
keep of the user, and wait for it.

The key is known from the app's last runs. The value goes to the process ahead of the message; if
the app then asks for that key before anything else that needs an answer, the harness has the
reply. It is read after the last write of the user's lane, and just before the app gets the message,
so the app sees nothing that it could not have seen by asking. If it does not ask, nothing was done
but one read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import trio
from attrs import define, field, frozen

from resources.kv import KEY_MAX, reply_of
from resources.stores.keyspace import Keyspace
from resources.stores.redis import StoreError

from ..config.model import App
from ..sandboxes.protocol import Request

SURE = 2  # runs in a row that must have begun with the same read
APPS_MAX = 10_000  # apps of which something is known
PATIENCE = 0.5  # seconds; a store that takes longer is left to the app's own question
READ = "kv.get"


@frozen
class Foreseen:
    """A value that was read.

    Attributes:
        reply: What an app is told that asks for it.
        seconds: That the store took.
    """

    key: str
    reply: dict[str, Any]
    seconds: float


@define
class _Habit:
    """With which read the runs of an app begin.

    Attributes:
        generation: Of the app.
        parts: The key, cut where the user's address was.
        times: Runs in a row.
    """

    generation: object
    parts: tuple[str, ...]
    times: int = 1


@define(eq=False)
class Foresight:
    """The habits of all apps."""

    _keyspace: Keyspace
    _habits: OrderedDict[str, _Habit] = field(factory=OrderedDict, init=False)

    def key(self, app: App, user: str) -> str | None:
        """The key that a run for this user will probably begin with; None if that is not known."""
        habit = self._habits.get(app.name)
        if habit is None or habit.times < SURE or habit.generation != app.generation:
            return None
        key = user.join(habit.parts)
        return key if len(key) <= KEY_MAX else None  # an app that asks for a longer one is refused

    async def read(self, app: App, user: str) -> Foreseen | None:
        """Read what a run will probably ask for; None if nothing is expected, or the store is not
        at hand, or slow.
        """
        key = self.key(app, user)
        if key is None or not self._keyspace.redis.is_at_hand:
            return None
        began, value = trio.current_time(), None
        try:
            with trio.move_on_after(PATIENCE):
                value = reply_of(await self._keyspace.get(app.account, key))
        except (StoreError, ValueError):  # the app will be told if it asks
            return None
        if value is None:
            return None
        return Foreseen(key, {"success": True, "value": value}, trio.current_time() - began)

    def learn(self, app: App, user: str, asked: Request | None) -> None:
        """Note what a run first waited for; None: for nothing."""
        key = asked.fields.get("key") if asked is not None and asked.name == READ else None
        if not isinstance(key, str) or len(key) > KEY_MAX:
            self._habits.pop(app.name, None)
            return
        parts = tuple(key.split(user)) if user else (key,)
        habit = self._habits.get(app.name)
        if habit is not None and habit.parts == parts and habit.generation == app.generation:
            habit.times += 1
            return
        self._habits[app.name] = _Habit(app.generation, parts)
        if len(self._habits) > APPS_MAX:
            self._habits.popitem(last=False)
