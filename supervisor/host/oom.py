"""Which process the kernel kills when memory is short: sandboxes first, then the search process,
then us, and the store last.

A process may always raise its score, and lower it again to what a privileged process set last. To
go lower takes CAP_SYS_RESOURCE. So under a unit with OOMScoreAdjust=-500 the store has -500, and we
go up to -250.
"""

from __future__ import annotations

from pathlib import Path

from .process import write_oom_score

SEARCH = 800  # its indexes can be built again
STORE = -900  # if we may lower it
APART = 100  # by which we raise our own score if the store's cannot be lowered
SCORE_MAX = 1000
CAP_SYS_RESOURCE = 24

_given: list[int] = []  # our own score from before we changed it, once it was read


def given() -> int:
    """The score that this process was started with."""
    if not _given:
        try:
            _given.append(int(Path("/proc/self/oom_score_adj").read_text("ascii")))
        except (OSError, ValueError):
            return 0  # there is no such file: no score can be set
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
    """The score that we need in order to be killed before the store."""
    if given() < 0:
        return given() // 2
    return given() if may_lower() else min(given() + APART, SCORE_MAX)


def take_place() -> None:
    """Set our own score. May be called again; after `kernel.hide_memory`, only as root."""
    if own_score() != given():
        write_oom_score("self", own_score())
