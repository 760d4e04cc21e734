"""The life of a sandbox's process: starts that fail or are cancelled, what it is born with, what dies with it."""

from __future__ import annotations

import os

import pytest
import trio

from supervisor.errors import BootFailed
from supervisor.hold import hold_sandbox
from supervisor.jail import Jail
from supervisor.sandbox import Sandbox

from ..apps import jail_of, make_app
from .test_sandbox import booted, deliver


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("/no/such/node",), "cannot start /no/such/node: No such file or directory"),
        (("/bin/sh", "-c", "echo oops >&2; exit 3"), "ended while it booted; it last wrote: oops"),
        (("/bin/sleep", "60"), "limits.boot = 0.3 s: the process was not ready in that time"),
        (("/bin/sh", "-c", "echo hello; sleep 60"), "not JSON"),
    ],
)
async def test_a_process_that_does_not_come_up_is_a_boot_failure(argv: tuple[str, ...], text: str) -> None:
    """Missing, dying, hanging or babbling programs; nothing is left of them."""
    app = make_app("", limits={"boot": 0.3})
    jail = Jail(argv, {"PATH": "/usr/bin:/bin"})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            with pytest.raises(BootFailed) as raised:
                await nursery.start(hold_sandbox, app, jail)
    assert text in raised.value.detail, raised.value.detail


@pytest.mark.parametrize("delay", [0, 0.001, 0.005, 0.02, 0.05, 0.1])
async def test_a_start_may_be_cancelled_at_any_moment(delay: float) -> None:
    """No process is left, wherever the cancellation falls (the fixture looks)."""
    for _ in range(5):
        with trio.move_on_after(delay):
            async with trio.open_nursery() as nursery:
                sandbox: Sandbox = await nursery.start(hold_sandbox, make_app(""), jail_of(make_app("")))
                await deliver(sandbox)


async def test_the_environment_is_empty_and_descriptors_are_closed() -> None:
    """What a sandbox process gets: three variables of ours, three pipes, a session of its own, no core dumps."""
    os.environ["JSBOX_TEST_SECRET"] = "x"
    with open("/etc/hostname") as held:  # noqa: ASYNC230
        os.set_inheritable(held.fileno(), True)
        async with booted(make_app("", timezone="Africa/Johannesburg")) as sandbox:
            pid = sandbox.process.pid
            with open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: ASYNC230
                names = {item.split(b"=")[0] for item in environ.read().split(b"\0") if item}
            files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            with open(f"/proc/{pid}/limits") as limits:  # noqa: ASYNC230
                rows = limits.read()
            assert os.getsid(pid) == pid
    assert names == {b"UV_THREADPOOL_SIZE", b"OPENSSL_CONF", b"TZ"}
    assert "/etc/hostname" not in files
    table = {row[:26].strip(): row[26:].split()[:2] for row in rows.splitlines()}
    assert table["Max core file size"] == ["0", "0"]
    assert table["Max open files"] == ["64", "64"]
    assert table["Max data size"] == [str(224 << 20)] * 2


async def test_grandchildren_die_with_the_group() -> None:
    """A process that the process started, in the same session, ends when the sandbox ends."""
    jail = Jail(("/bin/sh", "-c", "sleep 300 & echo $! >&2; exec sleep 300"), {"PATH": "/usr/bin:/bin"})
    async with trio.open_nursery() as nursery:
        with pytest.raises(BootFailed) as raised:
            await nursery.start(hold_sandbox, make_app("", limits={"boot": 0.3}), jail)
    pid = int(raised.value.detail.split()[-1])
    with trio.fail_after(2):
        while _alive(pid):
            await trio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
