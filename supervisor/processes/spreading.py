"""A reload of all processes: the first is asked for it, and its config goes to the others."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

from attrs import define, field

from . import line
from .children import Child

# seconds; a SIGHUP that comes when the last one has had no answer for so long is sent all the same
ANSWER_SECONDS = 60.0

log = logging.getLogger(__name__)


@define(eq=False)
class Order:
    """A SIGHUP for the first process, until that has said what came of it. If it dies before, the
    next one gets it, once: should the config be what it dies of, the service goes on without.

    Attributes:
        is_wanted: A SIGHUP has come that the first process has not been sent.
    """

    is_wanted: bool = False
    _state: Literal["none", "sent", "lost", "sent again"] = "none"
    _sent_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the first process has yet to say what came of one."""
        return self._state != "none"

    def is_due(self, now: float) -> bool:
        """Whether the first process, which is ready, is to be sent SIGHUP; it counts as sent. `now`
        are seconds.
        """
        if self._state == "lost":
            self._state, self._sent_at = "sent again", now
            return True
        is_waited_for = self.is_open and now < self._sent_at + ANSWER_SECONDS
        if is_waited_for or not self.is_wanted:
            return False
        self.is_wanted, self._state, self._sent_at = False, "sent", now
        return True

    def answered(self) -> None:
        """The first process has said what came of it."""
        self._state = "none"

    def died(self, name: str) -> None:
        """The first process, of that name, has ended."""
        if self._state == "sent":
            log.warning("%s ended during a reload: the next one reloads", name)
            self._state = "lost"
        elif self._state == "sent again":
            log.error("%s ended during a reload again: the old config stays", name)
            self._state = "none"


@define(eq=False)
class Spreading:
    """A config goes to all processes or to none: the first checks it, and what it has applied the
    others apply. One that cannot is started anew, with that config.

    Attributes:
        config: A file in memory with what the first has applied last; -1: nothing.
        to: The processes that have not applied it yet.
    """

    _servers: Sequence[Child]
    _end: Callable[[Child], None]
    _done: Callable[[], None]
    config: int = -1
    to: dict[Child, None] = field(factory=dict, init=False)
    _number: int = field(default=0, init=False)  # of that config
    _problems: list[str] = field(factory=list, init=False)

    def take(self, source: Child, descriptors: Sequence[int]) -> int | None:
        """Spread the config that a process has handed over; return the descriptor that is kept."""
        if descriptors:
            self._spread(source, descriptors[0])
            return descriptors[0]
        text = f"the parent had no descriptor to spare: only {source.name} has this config"
        log.error(text)
        if self.to:
            self._problems.append(text)
        else:
            self._problems[:] = [text]
            self._tell()
        return None

    def _spread(self, source: Child, descriptor: int) -> None:
        """Give all others a config, and keep it for those that start from now on."""
        if self.config != -1:
            os.close(self.config)
        self.config, self._number = descriptor, self._number + 1
        self._problems.clear()
        self.to.clear()
        for child in self._servers:
            if child is not source and child.state in {"starting", "ready"}:
                if child.send(line.RELOAD + str(self._number).encode(), descriptor):
                    self.to[child] = None
                else:
                    self._end(child)
        if not self.to:
            self._tell()

    def refused(self, child: Child, number: int, why: str) -> None:
        """A process cannot apply the config of a number; an older one no longer matters."""
        if number != self._number:
            return
        log.error("%s refused the config and starts anew: %s", child.name, why)
        self._problems.append(f"{child.name} starts anew, since it refused the config: {why}")
        if child.state != "stopping":  # a second SIGTERM would end its runs
            self._end(child)
        self.settled(child)

    def applied(self, child: Child, number: int) -> None:
        """A process has applied the config of a number."""
        if number == self._number:
            self.settled(child)

    def settled(self, child: Child) -> None:
        """A process is waited for no longer: it has applied the config, or ends, and has it when it
        starts again.
        """
        if child in self.to:
            del self.to[child]
            if not self.to:
                self._tell()

    def _tell(self) -> None:
        shown = [text[:1000] for text in self._problems[:10]]
        self._servers[0].send(line.SPREAD + json.dumps(shown).encode())
        self._done()
