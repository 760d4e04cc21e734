"""The toolkits compiled ahead: made in a jail, used by processes with the same flags, and of no
consequence where they do not fit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from attrs import evolve

from supervisor.config.model import App, Isolation, Level
from supervisor.jail.walls import Stage, Walls, open_isolation
from supervisor.sandboxes.codecache import compile_toolkits
from supervisor.service import HARNESS

from ...apps import NODE, make_app
from ...programs import bubblewrap
from .processes import booted, deliver

TOOLKIT = make_app(
    "var v = require('vumigo_v02'), _ = require('lodash'); api.log_info(typeof v.App + "
    "_.VERSION); api.done();",
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


async def test_a_cleaner_of_tmp_takes_nothing_that_is_needed(
    walls: Walls, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole folder, before and after it is compiled for: the next process starts, and then it
    is compiled again.
    """
    for _ in range(2):
        assert walls.compiled is not None
        shutil.rmtree(walls.compiled)
        assert (await said(TOOLKIT, walls)).startswith("function4.")
        assert await compile_toolkits(walls, [TOOLKIT]) == 1
        assert walls.jail(TOOLKIT).argv[-1].endswith(walls.compiled_name(TOOLKIT))
        assert (await said(TOOLKIT, walls)).startswith("function4.")
    assert "made it again" in caplog.text


@pytest.mark.parametrize("level", ["standard", "strict", "none"])
async def test_a_process_starts_without_it(level: Level) -> None:
    """Somebody else has the folder's name: nothing is read there, and nothing compiled."""
    if level == "strict":
        bubblewrap()
    with open_isolation(Isolation(level), NODE, HARNESS) as walls:
        folder = walls.compiled
        assert folder is not None
        shutil.rmtree(folder)
        folder.write_text("somebody else's")
        assert walls.compiled is None
        assert not any(str(folder) in word for word in walls.jail(TOOLKIT).argv)
        assert (await said(TOOLKIT, walls)).startswith("function4.")
        assert await compile_toolkits(walls, [TOOLKIT]) == 0
        folder.unlink()


async def test_no_temporary_folder_is_no_reason_not_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only copies for other users need one, and those are not needed here."""

    def none(purpose: str, mode: int = 0) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("supervisor.jail.walls.open_scratch", none)
    monkeypatch.setattr("supervisor.jail.walls.open_stage", lambda: nullcontext(Stage(None)))
    with open_isolation(Isolation(), NODE, HARNESS) as walls:
        assert walls.compiled is None
        assert walls.jail(TOOLKIT).argv
        assert await compile_toolkits(walls, [TOOLKIT]) == 0
