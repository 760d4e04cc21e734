"""What native code can get in a sandbox that was broken out of: a C program, through the very
launcher with the very arguments of a sandbox.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from supervisor.config.model import Level
from supervisor.jail.argv import MAPPED, MORE_PROCESSES, TASKS

from ...apps import make_app, walls
from ...programs import bubblewrap, zig

MIB = 1 << 20
MEMORY = 192 * MIB
ALL = 4096 * MIB  # that the program tries to get
ALL_THREADS = 1500
LEVELS = ["standard", "strict"]
UNCOUNTED = ["shared", "shared, to read", "shared, of /dev/zero", "memfd", "segment", "stack"]
"""Memory that RLIMIT_DATA does not count."""
MAPPED_ONLY = ["page tables", "written, then to read"]
"""Memory that only RLIMIT_AS counts."""
NEW_CODE = [
    "writable code",
    "written, then code",
    "written, then writable code",
    "nothing, then code",
    "code, rewritten",
]

Attempt = Callable[..., int]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled as the launcher is."""
    folder = tmp_path_factory.mktemp("native")
    command, env = (["cc"], None) if shutil.which("cc") else zig(folder / "zig")
    flags = ["-static", "-O1", "-Wall", "-Werror", "-pthread"]
    if env is not None:
        flags += ["-target", f"{os.uname().machine}-linux-musl"]
    source = Path(__file__).with_name("native.c")
    argv = [*command, *flags, "-o", str(folder / "native"), str(source)]
    subprocess.run(argv, check=True, env=env, timeout=300)
    (folder / "native").chmod(0o755)
    return folder / "native"


@pytest.fixture
def attempt(program: Path) -> Attempt:
    """Runs one attempt at a level; returns what it got."""

    def run(level: Level, name: str, *, jit: bool = False, without: int | None = None) -> int:
        if level == "strict":
            bubblewrap()
        there = walls(level)
        node = there.stage.reachable(program) if level == "strict" else program
        like = evolve(there, place=evolve(there.place, node=node, libraries=()))
        made = like.jail(make_app("", limits={"memory": MEMORY, "jit": jit}))
        argv = list(made.argv)
        if without is not None:
            place = next(n for n, word in enumerate(argv) if word.startswith(f"{int(without)}:"))
            del argv[place - 1 : place + 1]
        done = subprocess.run(
            [*argv, name],
            env=dict(made.env),
            user=made.user,
            group=made.user,
            extra_groups=None if made.user is None else [],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return int(done.stdout)

    return run


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", UNCOUNTED)
def test_memory_that_no_limit_counts_is_refused(
    level: Level, name: str, attempt: Attempt, *, jit: bool
) -> None:
    """Shared memory of every kind, and stacks that grow down."""
    assert attempt(level, name, jit=jit) == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["private", *MAPPED_ONLY])
def test_memory_is_bounded(level: Level, name: str, attempt: Attempt) -> None:
    """What a process may write by RLIMIT_DATA. What it only maps, and with it the page tables, by
    RLIMIT_AS; so is what it wrote and then made read-only, which RLIMIT_DATA forgets.
    """
    got = attempt(level, name)
    most = MEMORY + (MAPPED if name in MAPPED_ONLY else 0)
    assert most - 64 * MIB < got <= most


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NEW_CODE)
def test_nothing_becomes_code(level: Level, name: str, attempt: Attempt) -> None:
    """Unless the app may use V8's compiler, which needs it."""
    assert attempt(level, name) == 0
    assert attempt(level, name, jit=True) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_no_process_can_be_made(level: Level, attempt: Attempt) -> None:
    assert attempt(level, "processes") == 0


def test_threads_are_few_at_level_strict(attempt: Attempt) -> None:
    """The namespace counts its own."""
    assert 0 < attempt("strict", "threads") < TASKS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each app a user of its own")
def test_threads_are_few_if_the_app_has_its_own_user(attempt: Attempt) -> None:
    """All processes of the app together."""
    pool = make_app("").pool
    most = TASKS * (pool.max_processes + MORE_PROCESSES)
    assert 0 < attempt("standard", "threads") < most < ALL_THREADS
    assert attempt("standard", "threads", without=resource.RLIMIT_NPROC) == ALL_THREADS


@pytest.mark.parametrize(
    ("name", "all_of_it"),
    [("shared", ALL), ("memfd", 1), ("segment", 1), ("processes", 1)]
    + [(name, 1) for name in NEW_CODE],
)
def test_the_attempts_would_succeed(name: str, all_of_it: int, attempt: Attempt) -> None:
    """Where nothing but resource limits holds, without the one that counts what is mapped."""
    assert attempt("none", name, without=resource.RLIMIT_AS) == all_of_it
