"""The toolkits compiled ahead: made in a jail, used by processes with the same flags, and of no
consequence where they do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve

from supervisor.config.model import App, Isolation, Level
from supervisor.jail.walls import Walls, open_isolation
from supervisor.sandboxes.codecache import compile_toolkits
from supervisor.service import HARNESS

from ...apps import NODE, make_app
from ...programs import bubblewrap
from .test_sandbox import booted, deliver

TOOLKIT = make_app(
    "var v = require('vumigo_v02'), _ = require('lodash'); api.log_info(typeof v.App + _.VERSION); api.done();",
    modules=("vumigo_v02", "lodash"),
)


@pytest.fixture
def walls() -> Iterator[Walls]:
    with open_isolation(Isolation(), NODE, HARNESS) as found:
        yield found


async def said(app: App, walls: Walls) -> str:
    async with booted(app, walls.jail(app)) as sandbox:
        (asked,) = (await deliver(sandbox))[1]
        return str(asked.fields["msg"])  # type: ignore[union-attr]


async def test_each_kind_of_flags_is_compiled_for_once(walls: Walls) -> None:
    """Apps with the same limits share what was compiled; those with others have their own."""
    big = evolve(TOOLKIT, limits=evolve(TOOLKIT.limits, heap=80 << 20))
    assert await compile_toolkits(walls, [TOOLKIT, make_app("", name="other"), big]) == 2
    assert await compile_toolkits(walls, [TOOLKIT, big]) == 0
    assert {file.suffix for file in walls.compiled.glob("[!.]*")} == {".bin"}


@pytest.mark.parametrize("level", ["standard", "strict", "none"])
async def test_a_process_starts_with_it_at_each_level(level: Level) -> None:
    """The file is among the few that a sandbox can read, and the app sees the same toolkit."""
    if level == "strict":
        bubblewrap()
    with open_isolation(Isolation(level), NODE, HARNESS) as walls:
        before = await said(TOOLKIT, walls)
        assert await compile_toolkits(walls, [TOOLKIT]) == 1
        assert walls.jail(TOOLKIT).argv[-1].endswith(walls.compiled_name(TOOLKIT))
        assert await said(TOOLKIT, walls) == before
        assert before.startswith("function4.")


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff\x7f{", b"garbage" * 1000])
async def test_a_damaged_file_is_as_good_as_none(walls: Walls, damage: bytes) -> None:
    """The process loads the toolkits itself."""
    await compile_toolkits(walls, [TOOLKIT])
    (walls.compiled / walls.compiled_name(TOOLKIT)).write_bytes(damage)
    assert (await said(TOOLKIT, walls)).startswith("function4.")


async def test_what_was_compiled_with_other_flags_is_refused_by_v8(walls: Walls) -> None:
    """And compiled again, in silence."""
    other = evolve(TOOLKIT, limits=evolve(TOOLKIT.limits, jit=True))
    await compile_toolkits(walls, [other])
    (walls.compiled / walls.compiled_name(other)).rename(
        walls.compiled / walls.compiled_name(TOOLKIT)
    )
    assert (await said(TOOLKIT, walls)).startswith("function4.")
