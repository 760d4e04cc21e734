"""What a resource is: a named table of typed commands. Knows nothing of processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

from attrs import define, field, frozen

from .messages import Payload
from .stores.fencing import Fence

T = TypeVar("T")


class Refused(Exception):
    """The command was understood and refused; the app learns the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AppLog(Protocol):
    """Writes to the log of the app that a run belongs to."""

    async def __call__(self, level: int, message: str) -> None:
        """Write a line, and wait until it is kept; `level` is one of `logging`'s."""

    def soon(self, level: int, message: str) -> bool:
        """Queue a line ahead of all later commands to the store, without waiting. Returns False if
        it cannot be queued now.
        """


@define(eq=False)
class Caller:
    """On whose behalf a command runs: one run of one app.

    Attributes:
        message: The inbound message that the run handles, as the app sees it; None for an event.
        settings: The operator's settings for this app, one value per resource, by its type.
        origin: Names the journal entry that the run is for, the same whenever it is run again; ""
            if there is none. The ids of what the run sends are derived from it.
        replied: Whether the message has been replied to in this run.
        fence: What has to hold for the run to write, if several servers share the work.
        posted: What posts each outbound of the run again, which does nothing if the store has it.
    """

    run: str
    account: str
    app: str
    channel: str
    message: Payload | None
    settings: Mapping[type, Any]
    log: AppLog
    origin: str = ""
    replied: bool = field(default=False)
    fence: Fence | None = None
    posted: list[Callable[[], Awaitable[object]]] = field(factory=list, init=False)
    _taken: dict[str, int] = field(factory=dict, init=False)  # outbounds of a name so far
    # slots of outbounds that were not posted
    _free: dict[tuple[str, Any], list[str]] = field(factory=dict, init=False)

    def take_slot(self, name: str, content: Any) -> str:
        """Take the next slot for an outbound of this name (`resources.stores.outbox.Slot`).

        An app that repeats an outbound because it did not learn of success gets the same slot
        again: the first one may have been posted nevertheless.
        """
        free = self._free.get((name, content))
        if free:
            return free.pop(0)
        number = self._taken[name] = self._taken.get(name, -1) + 1
        return f"{number} {name}"

    def free_slot(self, slot: str, name: str, content: Any) -> None:
        """Give a slot back: its outbound was not posted, or nobody knows whether it was."""
        self._free.setdefault((name, content), []).append(slot)

    def setting(self, kind: type[T]) -> T:
        """The app's settings for one resource."""
        value: T = self.settings[kind]
        return value


@frozen
class Command:
    """One row of a resource's table."""

    name: str
    request: type
    handle: Callable[[Any, Caller, Any], Any]


Later = Coroutine[Any, Any, T]
"""An answer that has to be awaited."""

F = TypeVar("F", bound=Callable[..., Any])


def command(*names: str) -> Callable[[F], F]:
    """Mark a method as the handler of a command, or of several that take the same request.

    A handler is a coroutine function, or a plain one if it has nothing to wait for: then no task is
    started. One that need not always wait returns either its answer or a coroutine of it.
    """

    def mark(method: F) -> F:
        method.__wire_names__ = names  # type: ignore[attr-defined]
        return method

    return mark


class Resource:
    """Base of all resources: collects the marked methods into the table that the router reads."""

    COMMANDS: ClassVar[dict[str, Command]]

    def __init_subclass__(cls) -> None:
        """Build the table from the methods and the type of their request."""
        cls.COMMANDS = {
            name: Command(name, get_type_hints(method)["request"], method)
            for method in vars(cls).values()
            for name in getattr(method, "__wire_names__", ())
        }
