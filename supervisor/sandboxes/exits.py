"""Why a process ended that nobody killed."""

from __future__ import annotations

import re
import signal

from ..config.model import Limits
from ..errors import LimitHit, SandboxFault
from ..outcomes import Outcome

OUT_OF_HEAP = re.compile(r"heap out of memory|Reached heap limit|invalid table size", re.IGNORECASE)
OUT_OF_MEMORY = re.compile(
    r"Committing semi space|AlignedAlloc|allocation failed|bad_alloc|Zone|SpacePage|out of memory",
    re.IGNORECASE,
)


def classify_exit(code: int, stderr: str, limits: Limits) -> SandboxFault:
    """The fault that a run ends with if its process ended by itself.

    V8 aborts (SIGABRT, SIGTRAP or SIGILL) when it cannot have memory, and writes the reason to
    stderr.
    """
    last_words = f"; it last wrote: {stderr[-2000:]}" if stderr else ""
    if code == -signal.SIGXCPU:
        return LimitHit(Outcome.CPU, "cpu", f"{limits.cpu:g} s", "SIGXCPU from the kernel")
    aborted = code in (-signal.SIGABRT, -signal.SIGTRAP, -signal.SIGILL)
    if aborted and (hit := out_of_memory(stderr, limits)):
        return hit
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return SandboxFault(Outcome.CRASHED, f"the process was ended by {name}{last_words}")
    return SandboxFault(
        Outcome.CRASHED, f"the process exited with code {code} before the run was done{last_words}"
    )


def out_of_memory(stderr: str, limits: Limits) -> LimitHit | None:
    """The limit that V8 ran into, by what it wrote before it ended the process."""
    if OUT_OF_HEAP.search(stderr):
        measured = "more than that, and V8 could not free any"
        return LimitHit(Outcome.HEAP, "heap", f"{limits.heap} bytes", measured)
    if OUT_OF_MEMORY.search(stderr):
        measured = "an allocation that the kernel refused"
        return LimitHit(Outcome.MEMORY, "memory", f"{limits.memory} bytes", measured)
    return None
