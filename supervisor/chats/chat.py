"""A test: a conversation, what is there before it, and what the app is expected to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from attrs import field, frozen

from resources.stores.contacts import Change

from ..config.locate import Path
from ..load.campaign import Step, Stub

NUMBER = "+27820000001"
TO = "*120*1#"  # whom users write to if no step dials


@frozen
class ChatStep(Step):
    """What the user does, and the reply expected; unlike in a load test, users may dial again and
    hang up, and a run may be expected to fail.
    """

    hang_up: bool = False
    expect_outcome: str = "ok"


@frozen
class Expected:
    """One thing that the app should have done: `kind` is http, metric, kv, contact, sms or log;
    `what` are the fields that it must have.
    """

    kind: str
    what: Mapping[str, Any]
    path: Path


@frozen
class Move:
    """A step, and what is expected after it besides the reply."""

    step: ChatStep
    path: Path
    expected: Sequence[Expected] = ()


@frozen(kw_only=True)
class Chat:
    """A test file.

    Attributes:
        app: Its name in the config; None: that of `channel`, or the only one.
        now: Seconds since 1970 at which the app's clock begins; None: the real time.
        config: Texts by config key, or what to merge into the app's JSON under that key.
        kv: JSON texts by name.
        expected: At the end.
        lines: The line of each key of the file.
    """

    file: FilePath
    app: str | None = None
    channel: str | None = None
    number: str = NUMBER
    to: str = TO
    now: float | None = None
    config: Mapping[str, Any] = field(factory=dict)
    kv: Mapping[str, bytes] = field(factory=dict)
    contacts: Sequence[tuple[str, Change]] = ()
    stubs: Sequence[Stub] = ()
    moves: Sequence[Move] = ()
    expected: Sequence[Expected] = ()
    lines: Mapping[Path, int] = field(factory=dict)

    def line_of(self, path: Path) -> int:
        """The line of a path, or of its nearest parent that has one."""
        return next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1
        )
