"""Children whose parent was killed."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from resources import kernel

from .family import SECONDS, family, serving

SOON = int(signal.SIGQUIT)  # seconds, and a signal that no child here uses
WITH_THE_LOCK = ctypes.PyDLL(None)  # whose functions keep the interpreter's lock


def hanging(name: str, theirs: socket.socket) -> int:
    """Hangs, and lets no other Python code run; but for the first process, which serves."""
    if name == "process 1":
        return serving(name, theirs)
    theirs.send(b"READY=1\n")
    while True:
        WITH_THE_LOCK.sleep(1000)


def test_one_that_hangs_outlives_its_parent_for_a_bounded_time(tmp_path: Path) -> None:
    def short(module: ModuleType) -> None:
        module.ORPHAN_SECONDS = SOON  # type: ignore[attr-defined]

    with family(tmp_path, 2, hanging, change=short) as one:
        one.noted("all are ready")
        with ExitStack() as stack:
            ends = [os.pidfd_open(one.pid_of(name)) for name in ("process 1", "process 2")]
            for end in ends:
                stack.callback(os.close, end)
            os.kill(one.pid, signal.SIGKILL)
            for end in ends:
                assert select.select([end], [], [], SECONDS)[0]
        assert one.noted("process 1 ends")  # by itself
        assert not [text for text in one.noted(" ends") if "process 2" in text]


def test_one_whose_parent_has_ended_before_it_could_ask_the_kernel() -> None:
    """It is somebody else's child by then; as process 1's it would be, too, in a container."""
    ended, ends = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(ended)
            kernel.end_after(os.getppid() + 1, int(signal.SIGHUP))
            while True:
                WITH_THE_LOCK.sleep(1000)
        finally:
            os._exit(1)
    os.close(ends)
    with open(ended, "rb") as file:
        assert file.read() == b""
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM


def test_one_that_has_heard_of_it_ends_as_it_is_allowed_to() -> None:
    """Whatever the kernel says then."""
    pid = os.fork()
    if not pid:
        try:
            kernel.end_after(os.getppid())
            kernel.end_in(0.2)
            os.kill(os.getpid(), kernel.ORPHAN_SECONDS)
            while True:
                WITH_THE_LOCK.sleep(1000)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM
