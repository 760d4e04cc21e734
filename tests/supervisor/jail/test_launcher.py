"""The launcher: what it refuses to start, and what it goes without."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.jail.walls import LAUNCHER

from ...programs import zig

LANDLOCK_CREATE_RULESET = 444
SETPRIORITY = {"x86_64": 141, "aarch64": 140}[os.uname().machine]
USER = ("-u", "300000") if os.geteuid() == 0 else ()
FILES = ("-r", f"{int(resource.RLIMIT_NOFILE)}:64:64")


def _launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAUNCHER, *arguments], capture_output=True, text=True, timeout=10, check=False
    )


def _launch_without(call: int, *arguments: str) -> str:
    """What the launcher prints behind a filter that refuses a system call, as a container's may."""
    program = (
        "import ctypes, os, struct, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        # load the call's number; this one: EPERM; all else: allowed
        f"code = struct.pack('HBBI' * 4, 0x20, 0, 0, 0, 0x15, 0, 1, {call}, 6, 0, 0, 0x50001,"
        " 6, 0, 0, 0x7FFF0000)\n"
        "held = ctypes.create_string_buffer(code)\n"
        "filter = struct.pack('HxxxxxxP', 4, ctypes.addressof(held))\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    argv = [sys.executable, "-c", program, LAUNCHER, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_launcher_says_why_there_is_no_landlock() -> None:
    """As an old profile of Docker's has it."""
    assert int(_launch_without(LANDLOCK_CREATE_RULESET, "--abi")) == -errno.EPERM


def test_a_sandbox_stands_back_if_it_is_allowed_to() -> None:
    """It is no wall: what is held by all the others starts without it."""
    tell = ("-n", *FILES, "-e", "/usr/bin/nice", "--", "nice")
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert int(_launch("-N", "5", *tell).stdout) == min(ours + 5, 19)
    assert int(_launch("-N", "19", *tell).stdout) == 19
    assert int(_launch(*tell).stdout) == ours
    assert int(_launch_without(SETPRIORITY, "-N", "5", *tell)) == ours


@pytest.mark.parametrize(
    ("arguments", "step"),
    [
        ((), "reading the arguments"),
        (("-e", "/bin/true", "--", "true"), "reading the arguments"),
        ((*FILES, "--", "true"), "reading the arguments"),
        ((*FILES, "-z", "-e", "/bin/true", "--", "true"), "reading the arguments"),
        ((*FILES, "-u", "root", "-e", "/bin/true", "--", "true"), "-u"),
        ((*FILES, "-r", "1:2", "-e", "/bin/true", "--", "true"), "-r"),
        ((*FILES, "-R", "/no/such", "-e", "/bin/true", "--", "true"), "/no/such"),
        ((*FILES, *USER, "-p", "1", "-e", "/bin/true", "--", "true"), "finding the parent"),
        (
            (*FILES, *USER, "-r", "99:1:1", "-e", "/bin/true", "--", "true"),
            "setting a resource limit",
        ),
        ((*FILES, *USER, "-e", "/etc/hostname", "--", "true"), "executing the program"),
    ],
)
def test_the_launcher_starts_nothing_that_is_half_held(
    arguments: tuple[str, ...], step: str
) -> None:
    """Each step that fails is named, and the exit code is 126."""
    done = _launch(*arguments)
    assert (done.returncode, done.stdout) == (126, "")
    assert f"jail: {step} failed: " in done.stderr or "option" in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try to stay root")
def test_the_launcher_does_not_run_as_root() -> None:
    """Without a user to become it refuses."""
    done = _launch(*FILES, "-e", "/bin/true", "--", "true")
    assert (done.returncode, done.stderr) == (
        126,
        "jail: not being root failed: Operation not permitted\n",
    )


def test_the_launcher_compiles_without_a_warning(tmp_path: Path) -> None:
    """With the compiler of the build."""
    if shutil.which("cc") is None:
        pytest.skip("there is no cc; test_the_launcher_is_portable has a compiler of its own")
    source = LAUNCHER.with_name("launcher.c")
    argv = ["cc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "jail", source]
    subprocess.run(argv, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_launcher_is_portable(machine: str, tmp_path: Path) -> None:
    """Both kinds of processors, musl, and another compiler: no warnings, and a static program."""
    command, env = zig(tmp_path / "zig")
    flags = [
        "-target",
        f"{machine}-linux-musl",
        "-static",
        "-Os",
        "-s",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    source = LAUNCHER.with_name("launcher.c")
    subprocess.run(
        [*command, *flags, "-o", tmp_path / "jail", source], check=True, env=env, timeout=300
    )
    image = (tmp_path / "jail").read_bytes()
    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == {"x86_64": 62, "aarch64": 183}[machine]
    assert len(image) < 100_000
