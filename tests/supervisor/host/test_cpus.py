"""How many CPUs we may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.host import cpus as module
from supervisor.host.cpus import own_cpus, share_with, usable_cpus


@pytest.mark.parametrize(
    ("affinity", "quotas", "cpus"),
    [
        (8, {}, 8),
        (8, {"": "max 100000", "a": "max 100000", "a/b": "max 100000"}, 8),
        (8, {"a/b": "200000 100000"}, 2),
        (8, {"a/b": "210000 100000"}, 3),
        (8, {"a/b": "1000 100000"}, 1),
        (8, {"a": "300000 100000", "a/b": "max 100000"}, 3),
        (8, {"": "400000 100000", "a": "150000 50000", "a/b": "900000 100000"}, 3),
        (2, {"a/b": "400000 100000"}, 2),
        (8, {"elsewhere": "100000 100000"}, 8),
        (8, {"a/b": "nonsense"}, 8),
        (8, {"a/b": "1 0"}, 8),
    ],
)
def test_the_least_of_affinity_and_quotas(
    affinity: int,
    quotas: dict[str, str],
    cpus: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quota of any group above us holds; it is rounded up."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    for group, quota in quotas.items():
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(f"{quota}\n")
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/other\n0::/a/b\n")
    assert usable_cpus(tmp_path, membership) == cpus


@pytest.mark.parametrize("text", ["", "4:cpu:/a\n", "0::/\n"])
def test_without_a_group_only_affinity_counts(text: str, tmp_path: Path) -> None:
    """Version 1, the root group, or no /proc."""
    membership = tmp_path / "membership"
    if text:
        membership.write_text(text)
    assert usable_cpus(tmp_path, membership) == len(os.sched_getaffinity(0))


def test_here_it_is_at_least_one() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("usable", "processes", "own", "own_but_one"),
    [(8, 1, 8, 7), (8, 2, 4, 3), (8, 3, 2, 2), (2, 3, 1, 1), (1, 1, 1, 1)],
)
def test_several_processes_share_them(
    usable: int, processes: int, own: int, own_but_one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: usable)
    monkeypatch.setattr(module, "_sharers", [1])
    share_with(processes)
    assert (own_cpus(), own_cpus(less=1)) == (own, own_but_one)
