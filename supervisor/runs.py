"""A run in hand of a sandbox, and what is left of it when it ended well."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import trio
from attrs import define, field, frozen

from .config.model import Limits
from .errors import SandboxFault
from .protocol import ConsoleLine, Request

Reply = dict[str, Any] | None
"""The fields of the reply to what an app asks; None for what has none."""

Answer = Callable[[Request | ConsoleLine], Reply | Coroutine[Any, Any, Reply]]
"""Handles what an app asks: its reply, or, where that must be waited for, a coroutine of it."""


@frozen
class RunUse:
    """What a run that ended well has used."""

    commands: int
    cpu_seconds: float
    output_bytes: int
    calls_seconds: float  # in which at least one command was waited for


@define(eq=False)
class Run:
    """A run in hand."""

    id: str
    limits: Limits
    answer: Answer
    tasks: trio.Nursery
    cpu_seconds: float = 0.0  # its share of the process's, in equal parts
    output: int = 0  # bytes
    fault: SandboxFault | None = None
    is_settled: bool = False  # done, or at fault
    commands: int = 0
    in_flight: int = 0
    calls_since: float = 0.0  # when the first of those in flight was begun
    calls_seconds: float = 0.0
    waiting: deque[Request] = field(factory=deque)
    over: bool = False
