"""Become a program that gets SIGTERM from the kernel when its parent ends, even when that was
killed, and that holds a lock for as long as it lives: `with_parent PID LOCK SCORE PROGRAM ...`.

Run by its path, or in the one-file jsbox by its name. Spawning happens on the parent's main thread,
whose end is the process's end.
"""

import ctypes
import fcntl
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
EXIT_LOCKED = 75  # somebody else has the lock


def main(parent: str, lock: str, score: str, *argv: str) -> None:
    """Become the program; exit code 1 where the parent has ended already, 75 where another process
    has the lock.

    Args:
        parent: Its process id.
        lock: A file in the current folder. The lock is a record lock: it lasts over the exec, and
            no child of the program has it.
        score: What to lower /proc/self/oom_score_adj to, where we may: with CAP_SYS_RESOURCE, or
            down to what a service manager has given us.
        argv: The program and its arguments.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(1)
    with suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, score.encode())
        os.close(descriptor)
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stderr.write("another server runs here\n")
        sys.exit(EXIT_LOCKED)
    os.set_inheritable(held, True)  # noqa: FBT003  # the standard library's own parameter
    os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
