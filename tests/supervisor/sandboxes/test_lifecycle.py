"""The life of a sandbox's process: starts that fail or are cancelled, what it is born with, what
dies with it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from resources.fence import tally
from supervisor.config.model import App
from supervisor.errors import BootFailed, SandboxFault
from supervisor.jail import argv as jail
from supervisor.jail.argv import Jail
from supervisor.sandboxes import lifecycle as hold
from supervisor.sandboxes.lifecycle import hold_sandbox
from supervisor.sandboxes.sandbox import Sandbox

from ...apps import NICE, jail_of, make_app
from .processes import booted, deliver


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("/no/such/node",), "cannot start /no/such/node: No such file or directory"),
        (("/bin/sh", "-c", "echo oops >&2; exit 3"), "ended while it booted; it last wrote: oops"),
        (("/bin/sleep", "60"), "limits.boot = 0.3 s: the process was not ready in that time"),
        (("/bin/sh", "-c", "echo hello; sleep 60"), "not JSON"),
    ],
)
async def test_a_process_that_does_not_come_up_is_a_boot_failure(
    argv: tuple[str, ...], text: str
) -> None:
    """Missing, dying, hanging or babbling programs; nothing is left of them."""
    assert text in (await boot_failure(argv, 0.3 if "sleep" in argv[0] else 60))


async def boot_failure(
    argv: tuple[str, ...], seconds: float = 60, app: App | None = None, *, must_hold: bool = False
) -> str:
    """Why a program does not come up within `seconds`."""
    app = app or make_app("", limits={"boot": seconds})
    made = Jail(argv, {"PATH": "/usr/bin:/bin"}, must_hold=must_hold)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with pytest.raises(BootFailed) as raised:
                await nursery.start(hold_sandbox, app, made)
    return raised.value.detail


async def test_an_app_that_cannot_be_sent_is_a_boot_failure() -> None:
    """Its text has half a surrogate pair, which no file has, and no environment should have."""
    app = make_app("'\ud83d'")
    assert (await boot_failure(jail_of(app).argv, app=app)) == "internal error"


READY = '{"cmd":"js.ready","cmd_id":"h","reply":false,"run":null}'
COMMAND = '{"cmd":"kv.get","cmd_id":"1","reply":false,"run":null}'
PRINTED = '{"cmd":"js.console","cmd_id":"h","reply":false,"run":null,"level":"info","msg":"loaded"}'
NAMED = READY.replace("null", '"r1"')


@pytest.mark.parametrize(
    "lines", [(READY,), (PRINTED, READY), (READY, PRINTED), (PRINTED, PRINTED, READY, PRINTED)]
)
async def test_what_is_printed_with_the_word_that_all_is_ready_is_understood(
    lines: tuple[str, ...], tmp_path: Path
) -> None:
    """In one read, before or after it: it belongs to nobody's run, and the process is used."""
    said = tmp_path / "said"
    said.write_text("".join(line + "\n" for line in lines))
    made = Jail(("/bin/sh", "-c", f"cat {said}; exec sleep 300"), {"PATH": "/usr/bin:/bin"})
    with trio.fail_after(60):
        async with booted(make_app(""), made) as sandbox:
            assert sandbox.is_clean()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (f"printf '%s\\n' '{READY}' '{READY}'; sleep 300", "did not begin with js.ready"),
        (f"printf '%s\\n%s' '{READY}' '{PRINTED[:40]}'; sleep 300", "went on after js.ready"),
        (f"printf '%s\\n' '{NAMED}'; sleep 300", "a line of run 'r1'"),
        (f"printf '%s' '{READY[:20]}'", "ended while it booted"),
        ("true", "ended while it booted"),
        ("exec >&-; sleep 0.2", "ended while it booted"),
        ("printf '\\n'; sleep 300", "not JSON"),
        ("printf '\\000\\n'; sleep 300", "not JSON"),
        ("printf '[]\\n'; sleep 300", "no command but list"),
        ("head -c 10000000 /dev/zero", "limits.line = 262144 bytes"),
        ("head -c 10000000 /dev/zero | tr '\\000' '\\n'", "not JSON"),
        (f"yes '{PRINTED}'", "limits.output = 1048576 bytes"),
        (f"printf '%s\\n' '{COMMAND}'; sleep 300", "did not begin with js.ready"),
        ("head -c 10000000 /dev/zero >&2", "ended while it booted"),
    ],
)
async def test_whatever_is_said_instead_is_a_boot_failure(command: str, text: str) -> None:
    """Twice ready, half a line, nothing, ten megabytes: the start fails, with a reason, and nothing
    is left of it.
    """
    assert text in (await boot_failure(("/bin/sh", "-c", command)))


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """Only this many are left to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 50, hard))
    taken: list[int] = []
    try:
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            for _ in range(left):
                os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


async def test_a_start_without_descriptors_is_a_boot_failure() -> None:
    """However few are left: no process stays behind (the fixture looks), no descriptor either, and
    later ones start.
    """
    app = make_app("")
    made = jail_of(app)
    said = []
    before = len(os.listdir("/proc/self/fd"))
    for left in range(20):
        async with trio.open_nursery() as nursery:
            with few_descriptors(left):
                try:
                    sandbox: Sandbox = await nursery.start(hold_sandbox, app, made)
                except BootFailed as failed:
                    said.append(failed.detail)
                    continue
            sandbox.end()
        assert len(os.listdir("/proc/self/fd")) == before
        break
    assert said
    assert all("Too many open files" in detail for detail in said)
    assert len(said) < 20


async def test_a_process_that_cannot_be_looked_at_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No descriptor is left for its /proc, or it has just ended: the start fails."""

    def unheld(pid: int) -> str:
        with few_descriptors(0):
            return jail.unheld(pid)

    monkeypatch.setattr(hold, "unheld", unheld)
    argv = ("/bin/sh", "-c", f"printf '%s\\n' '{READY}'; exec sleep 300")
    assert "cannot be seen: Too many open files" in (await boot_failure(argv, must_hold=True))
    monkeypatch.setattr(hold, "unheld", lambda _: jail.unheld(1 << 30))
    assert "cannot be seen: No such file" in (await boot_failure(argv, must_hold=True))


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), UnicodeError("no"), MemoryError()]
)
async def test_an_error_of_the_task_that_reads_stderr_ends_its_process_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with it; the task that holds the process ends in the ordinary way."""

    async def drain(sandbox: Sandbox) -> None:
        try:
            while not sandbox.runs:
                await trio.lowlevel.checkpoint()
            raise error
        finally:
            sandbox.silent.set()

    monkeypatch.setattr(Sandbox, "drain_stderr", drain)
    before = tally["process"]
    with trio.fail_after(60):
        async with booted(make_app("api.on_inbound_message = function () {};")) as sandbox:
            with pytest.raises(SandboxFault, match="internal error"):
                await deliver(sandbox, 50)
    assert tally["process"] == before + 1
    assert sandbox.process.returncode == -9


@pytest.mark.parametrize("delay", [0, 0.001, 0.005, 0.02, 0.05, 0.1])
async def test_a_start_may_be_cancelled_at_any_moment(delay: float) -> None:
    """No process is left, wherever the cancellation falls (the fixture looks)."""
    for _ in range(5):
        with trio.move_on_after(delay):
            async with trio.open_nursery() as nursery:
                sandbox: Sandbox = await nursery.start(
                    hold_sandbox, make_app(""), jail_of(make_app(""))
                )
                await deliver(sandbox)


async def test_the_environment_is_empty_and_descriptors_are_closed() -> None:
    """What a sandbox process gets: three variables of ours, three pipes, a session of its own that
    stands back for ours, no core dumps.
    """
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
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(ours + NICE, 19)
            sessions = Path(f"/proc/{pid}/autogroup")  # None on a kernel without
            scheduled = sessions.read_text().split()[-1] if sessions.exists() else None
            assert scheduled in (None, str(NICE)) or os.geteuid() != 0
    assert names == {b"UV_THREADPOOL_SIZE", b"OPENSSL_CONF", b"TZ"}
    assert "/etc/hostname" not in files
    table = {row[:26].strip(): row[26:].split()[:2] for row in rows.splitlines()}
    assert table["Max core file size"] == ["0", "0"]
    assert table["Max open files"] == ["64", "64"]
    assert table["Max data size"] == [str(224 << 20)] * 2


async def test_grandchildren_die_with_the_group(tmp_path: Path) -> None:
    """A process that the process started, in the same session, ends when the sandbox ends."""
    said = tmp_path / "pid"
    await boot_failure(("/bin/sh", "-c", f"sleep 300 & echo $! > {said}; echo; exec sleep 300"))
    with trio.fail_after(60):
        while _alive(int(said.read_text())):
            await trio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
