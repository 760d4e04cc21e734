"""The operating-system limits round a sandbox: from the config's limits to argv, environment and rlimits, as a pure function.

For now the part that needs no privilege: rlimits, V8's own limits, and an empty environment. The launcher that adds seccomp,
Landlock and namespaces takes its place in front of `argv` here.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from .config.model import App

MIB = 1 << 20
OUTSIDE_DATA = 32 * MIB  # of a process's memory that RLIMIT_DATA does not see: program text, mapped files
CODE_RANGE = 512 * MIB  # that V8 reserves, and RLIMIT_DATA counts, where its compiler is on
THREAD_STACK = 2 * MIB
CPU_GRACE = 2  # seconds of CPU between the signal that can be caught and the one that cannot

NODE_FLAGS = (
    "--max-semi-space-size=2",
    "--v8-pool-size=1",
    "--no-addons",
    "--disable-proto=delete",
    "--disallow-code-generation-from-strings",  # of the harness's realm only; apps keep _.template
    "--disable-sigusr1",
    "--no-experimental-sqlite",
    "--no-experimental-require-module",  # packages that have both kinds give their CommonJS files
    "--no-warnings",
    "--no-deprecation",
)


@frozen
class Jail:
    """How to start one sandbox."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    rlimits: Mapping[int, tuple[int, int]]


def jail(app: App, node: Path, harness: Path) -> Jail:
    """The jail for a process of `app`."""
    limits = app.limits
    flags = (
        f"--max-old-space-size={max(limits.heap // MIB, 1)}",
        f"--stack-size={limits.stack >> 10}",
        *(() if limits.jit else ("--jitless",)),
        *NODE_FLAGS,
    )
    data = limits.memory - OUTSIDE_DATA + (CODE_RANGE if limits.jit else 0)
    files = limits.open_files
    return Jail(
        argv=(str(node), *flags, str(harness)),
        env={"UV_THREADPOOL_SIZE": "1", "OPENSSL_CONF": "/nonexistent", "TZ": app.timezone},
        rlimits={
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_FSIZE: (0, 0),
            resource.RLIMIT_MEMLOCK: (0, 0),
            resource.RLIMIT_MSGQUEUE: (0, 0),
            resource.RLIMIT_STACK: (THREAD_STACK, THREAD_STACK),
            resource.RLIMIT_DATA: (data, data),
            resource.RLIMIT_NOFILE: (files, files),
        },
    )


def cpu_rlimit(used: float, budget: float) -> tuple[int, int]:
    """RLIMIT_CPU for a run: a backstop, whole seconds above what the supervisor enforces, should it not be there to do so."""
    soft = int(used + budget * 2) + CPU_GRACE
    return soft, resource.RLIM_INFINITY
