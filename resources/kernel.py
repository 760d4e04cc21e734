"""What a process asks of the kernel about itself. Nothing slow is imported: some call it first."""

from __future__ import annotations

import ctypes
import math
import os
import signal

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
ORPHAN_SECONDS = 60  # that a process outlives its parent at most; the number of a signal, too


def hide_memory() -> None:
    """Keep processes of the same user from reading our memory, environment or descriptors."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def show_memory() -> None:
    """Undo that, until it is hidden again: a fork is as hidden as we are, and may then not set what
    is its own in /proc.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def protect() -> None:
    """End with the parent, and let no other process of this user read our memory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    hide_memory()


def end_after(parent: int, seconds: int = ORPHAN_SECONDS) -> None:
    """Have the kernel end this process some time after its parent (more exactly: after the thread
    that forked it), even if it hangs by then and the interpreter does not come to anything.

    The kernel sends a signal when the parent ends, and its handler is alarm(2) itself, which takes
    what a handler gets, the signal's number, as seconds. So there is no Python in it.

    Args:
        parent: Its process id.
        seconds: The number of a signal that nothing else here uses.
    """
    libc = ctypes.CDLL(None)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal(seconds, ctypes.cast(libc.alarm, ctypes.c_void_p))
    libc.prctl(PR_SET_PDEATHSIG, seconds, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        signal.alarm(seconds)


def end_in(seconds: float) -> None:
    """Have the kernel end this process after some time, instead of what `end_after` would do."""
    signal.signal(ORPHAN_SECONDS, signal.SIG_IGN)
    signal.alarm(math.ceil(seconds))
