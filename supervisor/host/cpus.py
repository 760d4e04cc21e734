"""How many CPUs we may use: fewer than the machine has, if affinity or a control group says so."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path, PurePosixPath

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

_sharers = [1]  # the processes of this server


def share_with(count: int) -> None:
    """From now on this is one of `count` processes of a server, which share the CPUs."""
    _sharers[0] = count


def own_cpus(less: int = 0) -> int:
    """Return this process's share of the CPUs but `less`, at least 1."""
    return max(1, (usable_cpus() - less) // _sharers[0])


def usable_cpus(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the number of CPUs that we may use, at least 1: those of our affinity, or the quota of
    a control group above us (cpu.max of version 2, rounded up) if that is less.

    Args:
        groups: Where the control groups are mounted.
        membership: The file that names ours.
    """
    quotas = [_quota(groups / folder / "cpu.max") for folder in _own_and_above(membership)]
    cpus = len(os.sched_getaffinity(0))
    return max(1, min([cpus, *(ceil(quota) for quota in quotas if quota is not None)]))


def _own_and_above(membership: Path) -> list[PurePosixPath]:
    """Our control group of version 2, and all above it, relative to where they are mounted."""
    try:
        lines = membership.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return []
    folder = PurePosixPath(own)
    return [folder, *folder.parents] if own else [folder]


def _quota(file: Path) -> float | None:
    """The CPUs that a cpu.max grants ("200000 100000" is two); None: as many as there are."""
    try:
        quota, period = file.read_text("ascii", "replace").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # "max", or there is no such limit
