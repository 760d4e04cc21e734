"""Who a write belongs to, if several servers share the work: the run of an entry of a partition.

A partition of an app's journal has one owner at a time, and its epoch grows with each. What a run
writes is sent with the owner that it runs under: the scripts refuse it once there is another
(scripts/_fence.lua). So a server that was frozen or cut off, and goes on, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from attrs import frozen

from .scripts import Script


@frozen
class Fence:
    """What has to hold for a run to write.

    Attributes:
        key: Where the store says who owns the partition.
        owner: What it has to say: epoch, host and process.
        partition: Its name, in the whole store.
        via: The host that took in what is run; empty if it is not known.
    """

    key: str
    owner: bytes
    partition: str
    via: str = ""

    @property
    def epoch(self) -> int:
        """Grows with each owner of the partition."""
        return int(self.owner.split(b" ", 1)[0])


# In the task that works for a run. A variable of the context, because what is fenced lies below
# every resource, and none of them should know of it.
_fence: ContextVar[Fence | None] = ContextVar("fence", default=None)


@contextmanager
def fenced(fence: Fence | None) -> Iterator[None]:
    """Fence what this task writes until the block ends; None: nothing is."""
    token = _fence.set(fence)
    try:
        yield
    finally:
        _fence.reset(token)


def current_fence() -> Fence | None:
    """Return the fence of the run that this task works for, if it has one."""
    return _fence.get()


def call_for_run(script: Script, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
    """The command that runs a script: fenced, if a run writes with it."""
    fence = _fence.get()
    if fence is None or not script.fenced_digest:
        return script.call(keys, *args)
    return script.call_fenced(keys, args, fence.key, fence.owner)
