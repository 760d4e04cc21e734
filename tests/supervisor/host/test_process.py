"""Child processes on a host that is short of what they need."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from supervisor.host.process import OOM_SCORE, SpawnFailed, open_process

from .capabilities import CAP_SETUID, has_capability

CAT = ["/bin/cat"]


@contextmanager
def descriptors(most: int) -> Iterator[None]:
    """No descriptor of a number of `most` or more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_short_of_descriptors_it_is_a_failed_spawn_and_nothing_is_left() -> None:
    """Whichever descriptor is the missing one; with just enough of them the process works."""
    async with open_process(CAT, {}, {}):
        pass  # whatever is loaded at a first spawn is loaded
    before = opened()
    # so that no low number is free but a few
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
    free = os.dup(0)
    os.close(free)
    results = []
    try:
        for more in range(14):
            with descriptors(free + more):
                try:
                    async with open_process(CAT, {}, {}) as process:
                        await process.stdin.send_all(b"there")
                        results.append((await process.stdout.receive_some()).decode())
                except SpawnFailed as failed:
                    assert not failed.is_final
                    assert "Too many open files" in str(failed)
                    results.append("")
    finally:
        for one in held:
            os.close(one)
    assert opened() == before
    assert results == sorted(results)  # from some number on it works
    assert {"", "there"} == set(results)


async def test_a_child_that_cannot_be_watched_is_killed_and_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last descriptor, that of the process itself, is the one that is missing."""
    children = []

    def no_more(pid: int) -> int:
        children.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", no_more)
    before = opened()
    with pytest.raises(SpawnFailed, match="cannot watch /bin/cat: Too many open files"):
        async with open_process(CAT, {}, {}):
            pass
    (pid,) = children
    assert not Path(f"/proc/{pid}").exists()
    assert opened() == before


@pytest.mark.parametrize(
    ("argv", "env", "cwd", "is_final"),
    [
        (["/no/such"], {}, "/", True),
        (["/etc/hostname"], {}, "/", True),
        (["/etc"], {}, "/", True),
        (["/bin/ca\0t"], {}, "/", True),
        (["/bin/cat", "x" * (4 << 20)], {}, "/", False),  # E2BIG
        (CAT, {"A": "\ud800"}, "/", True),
        (CAT, {}, "/no/such", True),
    ],
)
async def test_what_cannot_be_started_is_a_failed_spawn(
    argv: list[str], env: dict[str, str], cwd: str, is_final: bool
) -> None:
    """Whatever is wrong with it; and whether it is of use to try again."""
    with pytest.raises(SpawnFailed) as failed:
        async with open_process(argv, env, {}, cwd=cwd):
            pass
    assert failed.value.is_final is is_final
    assert argv[0] in str(failed.value)


async def test_no_more_processes_is_a_failed_spawn_that_may_be_tried_again(tmp_path: Path) -> None:
    """RLIMIT_NPROC, as another user: root has none."""
    if not has_capability(CAP_SETUID):
        pytest.skip("needs CAP_SETUID, to become a user who has no other processes")
    code = (
        "import os, resource, sys, trio\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from supervisor.host.process import SpawnFailed, open_process\n"
        "async def main():\n"
        "    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
        "    os.setresuid(43210, 43210, 43210)\n"
        "    try:\n"
        "        async with open_process(['/bin/cat'], {}, {}):\n"
        "            print('started')\n"
        "    except SpawnFailed as failed:\n"
        "        print(failed, failed.is_final)\n"
        "trio.run(main)\n"
    )
    root = str(Path(__file__).parents[3])
    done = await trio.run_process([sys.executable, "-c", code, root], capture_stdout=True)
    assert (
        done.stdout.decode().strip()
        == "cannot start /bin/cat: Resource temporarily unavailable False"
    )


async def test_the_kernel_ends_children_first() -> None:
    """When memory is short: their score is the highest there is, unless another is asked for."""
    for asked, given in (
        (None, Path("/proc/self/oom_score_adj").read_text()),
        (OOM_SCORE, "1000"),
        (800, "800"),
    ):
        async with open_process(CAT, {}, {}, oom_score=asked) as process:
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == given.strip()
    async with open_process(CAT, {}, {}) as process:
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"
