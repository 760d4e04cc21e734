"""The probe: it finds what a jail keeps, and that there is none."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import evolve

from supervisor.config.model import Isolation
from supervisor.errors import CannotStart
from supervisor.jail.probe import Probing, probe
from supervisor.jail.walls import open_isolation
from supervisor.service import HARNESS

from ...apps import NODE, walls
from ...programs import bubblewrap


@pytest.mark.parametrize("level", ["standard", "strict"])
async def test_the_probe_finds_every_guarantee_kept(level: str) -> None:
    """And its control shows that it would have seen a hole."""
    if level == "strict":
        bubblewrap()
    missed = [finding for finding in await probe(walls(level)) if not finding.holds]
    assert not missed


async def test_a_level_that_does_not_hold_is_not_served() -> None:
    """The walls of level none under another name: every hole is named."""
    fake = evolve(walls("none"), place=evolve(walls("none").place))
    probing = Probing("standard")
    await probing.run(fake)
    with pytest.raises(CannotStart) as raised:
        await probing.must_hold()
    assert (
        "isolation.level = 'standard' does not hold on this host: no file of the host's "
        "can be read: ALLOWED" in str(raised.value)
    )
    assert "no TCP connection can be made: ALLOWED" in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that an app's user cannot use")
async def test_node_may_lie_where_an_apps_user_does_not_get_to(tmp_path: Path) -> None:
    """As in an install below /root: the control can start a program all the same."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    node = closed / "node"
    with suppress(OSError):
        os.link(NODE, node)
    if not node.exists():
        shutil.copy(NODE, node)
    with open_isolation(Isolation("standard"), node, HARNESS) as made:
        assert [one for one in await probe(made) if not one.holds] == []
