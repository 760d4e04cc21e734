"""What ends a command: said in one line, cause first, with the documented exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from supervisor.cli.common import run_or_exit
from supervisor.errors import CannotStart


def deep(error: Callable[[], BaseException], levels: int = 15) -> Callable[[], Awaitable[int]]:
    """A main that raises in a task, below several nurseries."""

    async def level(left: int) -> None:
        if not left:
            raise error()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(level, left - 1)

    async def main() -> int:
        await level(levels)
        return 0

    return main


def ended(
    main: Callable[[], Awaitable[int]], capsys: pytest.CaptureFixture[str], **options: Any
) -> tuple[Any, str]:
    """The exit code and what was said."""
    with pytest.raises(SystemExit) as raised:
        run_or_exit(main, **options)
    return raised.value.code, capsys.readouterr().err


def test_the_cause_comes_first_however_deep_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the error itself, then where it was raised; nothing of the groups round it."""
    code, said = ended(deep(lambda: KeyError("the cause")), capsys)
    assert code == 1
    assert said.startswith("jsbox: internal error: KeyError: 'the cause' at test_run_or_exit.py:")
    assert said.rstrip().endswith("KeyError: 'the cause'")
    assert "raise error()" in said
    assert "max_group_depth" not in said
    assert "ExceptionGroup" not in said


def test_what_keeps_it_from_starting_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, or the one that the command has for it."""
    main = deep(lambda: CannotStart("the port is taken"))
    assert ended(main, capsys) == (1, "jsbox: the port is taken\n")
    assert ended(main, capsys, cannot=4) == (4, "jsbox: the port is taken\n")


def test_several_errors_are_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that nobody expected before those that were expected, each once."""

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            for error in (
                CannotStart("no port"),
                ValueError("one"),
                ValueError("two"),
                KeyboardInterrupt(),
            ):
                nursery.start_soon(deep(lambda error=error: error, 3))
        return 0

    code, said = ended(main, capsys)
    first = said.splitlines()[0]
    assert code == 1
    assert first.startswith("jsbox: internal error: ")
    assert "ValueError: one" in first
    assert "ValueError: two" in first


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt, 130), (lambda: SystemExit(4), 4), (lambda: SystemExit("words"), 1)],
)
def test_an_interrupt_and_an_exit_are_what_they_are(
    capsys: pytest.CaptureFixture[str], error: Callable[[], BaseException], code: int
) -> None:
    """Also below nurseries: nothing is said, the exit code is theirs."""
    assert ended(deep(error), capsys) == (code, "")
    assert ended(deep(error, 0), capsys) == (code, "")


def test_an_error_whose_text_cannot_be_printed_is_named_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Half of a surrogate pair, escapes of a terminal."""
    code, said = ended(deep(lambda: ValueError("a\ud83d\x1b[31m")), capsys)
    assert code == 1
    assert said.splitlines()[0].startswith("jsbox: internal error: ValueError: a\\ud83d\\x1b[31m")


class Thing:
    """Can be weakly referenced."""


def interrupt(_: object) -> None:
    """Interrupt this process in a callback of a weak reference, where Python drops what is raised;
    Trio's own handler takes care of __del__ alone.
    """
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def in_foreground() -> Iterator[None]:
    """Where Ctrl-C is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_foreground")
def test_ctrl_c_is_never_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever Python is when it comes: a --watch went on for ever. What is open is closed."""
    closed = []

    async def main() -> int:
        try:
            with trio.fail_after(60):
                thing = Thing()
                reference = weakref.ref(thing, interrupt)
                del thing
                assert reference() is None
                await trio.sleep_forever()
            raise AssertionError
        finally:
            closed.append(True)

    assert ended(main, capsys) == (130, "")
    assert closed == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("in_foreground")
def test_ctrl_c_is_ignored_where_the_shell_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """In the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.testing.wait_all_tasks_blocked()
        return 0

    assert ended(main, capsys) == (0, "")


STUBBORN = """
import sys, trio
from supervisor.cli.common import run_or_exit

async def main():
    try:
        print("running", flush=True)
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            print("closing", flush=True)
            await trio.sleep_forever()

run_or_exit(main)
"""


@pytest.mark.usefixtures("in_foreground")
def test_the_second_ctrl_c_ends_a_command_that_cannot_close() -> None:
    """At once."""
    argv = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        for word in ("running", "closing"):
            assert command.stdout.readline() == f"{word}\n"
            command.send_signal(signal.SIGINT)
        assert command.wait(60) == -signal.SIGINT


PRINTING = """
import trio
from supervisor.cli.common import run_or_exit

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(print_on)

async def print_on():
    while True:
        print("a line", flush=True)

run_or_exit(main)
"""


def test_a_reader_that_leaves_ends_a_command_in_silence() -> None:
    """`jsbox test | head -1`: no traceback, and none from what is flushed at the end."""
    argv = [sys.executable, "-c", PRINTING]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == b"a line\n"
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait(60) == 1


def test_another_pipe_that_breaks_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It has an owner, who did not expect it."""
    code, said = ended(deep(BrokenPipeError), capsys)
    assert code == 1
    assert said.startswith("jsbox: internal error: BrokenPipeError")
