"""What the parent knows of a child: a process of the service, or the keeper of the store."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from attrs import define, field

from . import line

PAUSE = (0.1, 10.0)  # seconds before a child that died is started again: first, most
STEADY_SECONDS = 60.0  # after so long the pause begins anew
NEVER = float("inf")

State = Literal["waiting", "starting", "ready", "stopping", "ended"]


@define(eq=False)
class Child:
    """One child, through all its restarts.

    Attributes:
        name: For people: "process 2", or "the store".
        run: What it does once it is forked; gets its end of the line, returns its exit code.
        state: waiting: it has not been started, or is about to be started again.
        was_up: It was ready once.
        due: When it is to be started, if it waits; likewise, when it is to be killed.
        heard: When it last said something.
        status: What it said of itself last.
        why: How it ended the last time.
        clients: Its connections, by the clients' addresses.
        served: The number of the last connection that it got, of all that the parent accepted.
    """

    name: str
    run: Callable[[socket.socket], int]
    state: State = "waiting"
    was_up: bool = False
    pid: int = 0
    line: socket.socket | None = None
    due: float = NEVER
    kill_at: float = NEVER
    heard: float = 0.0
    status: str = ""
    why: str = ""
    restarts: int = 0
    clients: Counter[str] = field(factory=Counter)
    served: int = 0
    _pause: float = PAUSE[0]
    _up_since: float = NEVER
    _is_ordered: bool = False  # we asked it to end

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.state in {"starting", "ready", "stopping"}

    def started(self, pid: int, ours: socket.socket, now: float) -> None:
        """It is a process now."""
        self.pid, self.line, self.state = pid, ours, "starting"
        self.heard, self.due, self.kill_at = now, NEVER, NEVER
        self.clients.clear()

    def up(self, now: float) -> None:
        """It serves."""
        self.was_up = True
        if self.state == "starting":
            self.state, self._up_since = "ready", now

    def ended(self, status: int, now: float, *, is_last: bool) -> float:
        """The process has ended, with this wait status. Unless `is_last` it is due to be started
        again; returns in how many seconds.
        """
        self.close()
        self.why, self.pid, self.kill_at = _end_of(status), 0, NEVER
        if is_last:
            self.state = "ended"
            return NEVER
        if now - self._up_since >= STEADY_SECONDS:
            self._pause = PAUSE[0]
        self.state, self._up_since = "waiting", NEVER
        self.restarts += 1
        return self.later(now)

    def later(self, now: float) -> float:
        """It is to be started, but not at once, unless we had it end; returns in how many
        seconds.
        """
        pause, self._is_ordered = 0.0 if self._is_ordered else self._pause, False
        self._pause = min(self._pause * 2, PAUSE[1])
        self.due = now + pause
        return pause

    def load(self, address: str) -> tuple[int, int]:
        """How many clients it has, and how many of them from an address."""
        return self.clients.total(), self.clients[address]

    def left(self, address: str, times: int = 1) -> None:
        """So many clients of an address have gone."""
        self.clients[address] -= times
        if self.clients[address] <= 0:
            del self.clients[address]

    def close(self) -> None:
        """Close our end of the line."""
        if self.line is not None:
            self.line.close()
            self.line = None

    def send(self, packet: bytes, *fds: int) -> bool:
        """Tell it something; return whether that was possible at once."""
        return self.line is not None and line.send(self.line, packet, *fds)

    def signal(self, number: int) -> None:
        """Send it a signal. Its process id is its own as long as we have not waited for it."""
        if self.pid:
            os.kill(self.pid, number)

    def stop(self, kill_at: float) -> None:
        """Ask it to end; it is to be killed at that time, or when it was already, if it has not."""
        self.signal(signal.SIGTERM)
        self._is_ordered = True
        self.stopping(kill_at)

    def stopping(self, kill_at: float) -> None:
        """It is about to end, whoever asked it to."""
        self.state, self.kill_at = "stopping", min(self.kill_at, kill_at)

    def row(self) -> dict[str, Any]:
        """How it is, for people."""
        return {
            "name": self.name,
            "pid": self.pid,
            "state": self.state,
            "clients": self.clients.total(),
            "restarts": self.restarts,
            "why": self.why,
        }


def _end_of(status: int) -> str:
    """How a process ended, for people."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
