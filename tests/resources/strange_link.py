"""A link to a store that behaves as scripted."""

from __future__ import annotations

import threading

from attrs import define, field

from resources.stores.resp import Command


@define
class StrangeLink:
    """A link that behaves as scripted."""

    does: list[object] = field(factory=list)
    connects: threading.Event = field(factory=threading.Event)

    def connect(self) -> None:
        self.connects.wait(20)

    def exchange(self, commands: list[Command], packed: bytes) -> list[object]:
        does = self.does.pop(0) if self.does else None
        if isinstance(does, BaseException):
            raise does
        return [0] * len(commands) if does is None else does  # type: ignore[return-value]

    def direct(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        self.connects.set()
