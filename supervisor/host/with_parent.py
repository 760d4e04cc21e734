"""Become a program that gets SIGTERM from the kernel when its parent ends, even if the parent was
killed, and that holds a lock for as long as it lives: `with_parent PID LOCK SCORE PROGRAM ...`.

Run by its path, or in the one-file jsbox by its name. It must be spawned by the parent's main
thread: the signal comes when that thread ends.
"""

import ctypes
import fcntl
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
EXIT_LOCKED = 75  # another process has the lock


def main(parent: str, lock: str, score: str, *argv: str) -> None:
    """Become the program. Exits with 1 if the parent has ended already, with 75 if another process
    has the lock.

    Args:
        parent: The parent's process id.
        lock: A file in the current folder. The lock is a record lock: it survives the exec, and
            children of the program do not inherit it.
        score: What to set /proc/self/oom_score_adj to, if we may: any value with CAP_SYS_RESOURCE,
            else no lower than the service manager set it.
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
