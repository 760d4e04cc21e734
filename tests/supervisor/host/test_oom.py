"""Which process the kernel kills when memory is short: the order, with privileges and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.host import oom
from supervisor.tools import doctor

from .capabilities import CAP_SETUID, has_capability

ROOT = str(Path(__file__).parents[3])
# Takes its place as the service does, starts children as it starts the store and a sandbox, and
# says what became of it.
PLACES = """
import ctypes, os, sys, trio
sys.path.insert(0, sys.argv[1])
from supervisor.host import oom
from resources.kernel import hide_memory
from supervisor.host.process import open_process
from supervisor.store.ownership import LOCK
from supervisor.store.valkey import WITH_PARENT

open('/dev/null', encoding='ascii').close()  # loaded while this Python can be got at
folder, user, given = sys.argv[2], int(sys.argv[3]), sys.argv[4]
open('/proc/self/oom_score_adj', 'w').write(given)
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a program that this user has started

def score(pid):
    return open(f'/proc/{pid}/oom_score_adj').read().strip()

async def main():
    oom.take_place()
    hide_memory()
    async with open_process(['/bin/cat'], {}, {}) as sandbox:
        print(score('self'), score(sandbox.pid))
    store = [*WITH_PARENT, str(os.getpid()), LOCK, str(oom.store_score()), '/bin/cat']
    if not user:  # who may not be able to get at this Python
        async with open_process(store, {}, {}, cwd=folder, oom_score=None) as process:
            await process.stdin.send_all(b'x')
            await process.stdout.receive_some()
            print(score(process.pid))

trio.run(main)
"""


def places(folder: Path, given: int, *, user: int = 0) -> list[int]:
    """The scores of supervisor, sandbox and, as root, store."""
    argv = [sys.executable, "-c", PLACES, ROOT, str(folder), str(user), str(given)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(one) for one in done.stdout.split()]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, [oom.APART, 1000, 0]), (300, [300 + oom.APART, 1000, 300]), (1000, [1000, 1000, 1000])],
)
def test_the_order_without_privileges(tmp_path: Path, given: int, expected: list[int]) -> None:
    """The store's score cannot be lowered, so ours is raised; also as a user whose files in /proc
    are root's once memory is hidden.
    """
    if oom.may_lower():
        expected = [given, 1000, oom.STORE]
    assert places(tmp_path, given) == expected
    if has_capability(CAP_SETUID):
        assert places(tmp_path, given, user=43210) == [min(given + oom.APART, 1000), 1000]


@pytest.mark.parametrize(("lowers", "store"), [(True, oom.STORE), (False, -500)])
def test_the_scores_under_a_unit_that_lowers_them(
    monkeypatch: pytest.MonkeyPatch, *, lowers: bool, store: int
) -> None:
    """What is asked of the kernel: half of the unit's score for us, at most all of it for the
    store. Needs no privileges: the kernel is not asked.
    """
    written: list[tuple[object, int]] = []
    monkeypatch.setattr(oom, "may_lower", lambda: lowers)
    monkeypatch.setattr(oom, "given", lambda: -500)
    monkeypatch.setattr(oom, "write_oom_score", lambda *asked: written.append(asked))
    oom.take_place()
    assert written == [("self", -250)]
    assert oom.store_score() == store


@pytest.mark.parametrize(
    ("given", "user", "expected"), [(-500, 0, [-250, 1000, oom.STORE]), (-500, 43210, [-250, 1000])]
)
def test_the_order_under_a_unit_that_lowers_it(
    tmp_path: Path, given: int, user: int, expected: list[int]
) -> None:
    """With OOMScoreAdjust= our score goes up by half of it."""
    if not oom.may_lower():
        pytest.skip(
            "no process can be given a score of -500 here: that takes CAP_SYS_RESOURCE;"
            " test_the_scores_under_a_unit_that_lowers_them ran without it"
        )
    assert places(tmp_path, given, user=user) == expected


def test_the_doctor_says_how_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do about it."""
    for lowers, given, status in ((True, 0, "ok"), (False, -500, "ok"), (False, 0, "note")):
        monkeypatch.setattr(oom, "may_lower", lambda lowers=lowers: lowers)
        monkeypatch.setattr(oom, "given", lambda given=given: given)
        (check,) = doctor.check_memory()
        assert check.status == status
        assert ("OOMScoreAdjust=" in check.remedy) == (status == "note")
