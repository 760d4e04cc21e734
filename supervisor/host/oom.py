"""Whom the kernel ends when memory is short: sandboxes first, then the search process, then us, and
the store last.

A process may always be made more likely to be ended, and less likely again down to what a
privileged process gave it last. Less than that takes CAP_SYS_RESOURCE. So under a unit with
OOMScoreAdjust=-500 the store has -500 and we go up to -250.
"""

from __future__ import annotations

from pathlib import Path

from .process import write_oom_score

SEARCH = 800  # its indexes can be built again
STORE = -900  # if we may
APART = 100  # that we go up where the store cannot go down
SCORE_MAX = 1000
CAP_SYS_RESOURCE = 24

_given: list[int] = []  # our own score before we changed it


def given() -> int:
    """The score that this process was started with."""
    if not _given:
        try:
            _given.append(int(Path("/proc/self/oom_score_adj").read_text("ascii")))
        except (OSError, ValueError):
            return 0  # there is no such file: nothing can be arranged
    return _given[0]


def may_lower() -> bool:
    """Whether we have CAP_SYS_RESOURCE."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return False
    return any(
        int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1
        for line in status.splitlines()
        if line.startswith("CapEff:")
    )


def store_score() -> int:
    """The score that the store can have."""
    return STORE if may_lower() else given()


def own_score() -> int:
    """The score that we should have, to be ended before the store."""
    if given() < 0:
        return given() // 2
    return given() if may_lower() else min(given() + APART, SCORE_MAX)


def take_place() -> None:
    """Take our own place in the order. May be called again; not once our memory is hidden, unless
    as root.
    """
    if own_score() != given():
        write_oom_score("self", own_score())
