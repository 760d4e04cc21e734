"""Become a program that gets SIGTERM from the kernel when its parent ends, even when that was killed: `with_parent PID PROGRAM ...`.

Run by its path, or in the one-file jsbox by its name. Spawning happens on the parent's main thread, whose end is the process's end.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, *argv: str) -> None:
    """Become the program; exit code 1 where the parent has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(1)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
