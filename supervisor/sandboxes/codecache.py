"""The toolkits, compiled ahead: for each kind of process, one loads them and writes down what V8
made of them, for the processes started later. Only our own code makes what a sandbox reads, in a
jail like its own, before any app is near it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import trio
from attrs import evolve

from ..config.model import App
from ..errors import CannotStart
from ..host.process import SpawnFailed, open_process
from ..jail.walls import Walls

PROGRAM = "codecache.js"
SECONDS = 30.0  # at most; it takes a third of a second
SIZE_MAX = 64 << 20  # bytes
KINDS_MAX = 8  # sets of flags to compile for; apps with other flags start without
READ = 64 << 10

log = logging.getLogger(__name__)


async def compile_toolkits(walls: Walls, apps: Iterable[App]) -> int:
    """Compile for each set of flags that the apps have and that was not compiled for yet; return
    for how many.
    """
    kinds = {walls.compiled_name(app): app for app in apps}
    done = 0
    for name, app in list(kinds.items())[:KINDS_MAX]:
        folder = walls.compiled
        if folder is None:
            break
        file = folder / name
        if not file.exists():
            try:
                data = await _run(walls, app)
                if data:
                    await trio.to_thread.run_sync(_write, file, data)
                    done += 1
            except (SpawnFailed, CannotStart, OSError) as error:
                log.warning("the toolkits are not compiled ahead: %s", error)
    return done


def _write(file: Path, data: bytes) -> None:
    partial = file.with_suffix(".part")
    partial.write_bytes(data)
    partial.chmod(0o644)
    partial.rename(file)


async def _run(walls: Walls, app: App) -> bytes:
    jail = evolve(walls, place=evolve(walls.place, harness=PROGRAM)).blank(
        evolve(app, modules_dir=None)
    )
    written = bytearray()
    with trio.move_on_after(SECONDS):
        async with open_process(
            jail.argv, jail.env, {}, user=jail.user, is_wrapped=jail.is_wrapped
        ) as process:
            process.set_background(on=True)
            with suppress(trio.BrokenResourceError):
                while len(written) <= SIZE_MAX and (
                    data := await process.stdout.receive_some(READ)
                ):
                    written += data
            if await process.wait() == 0 and len(written) <= SIZE_MAX:
                return bytes(written)
    log.warning("the toolkits are not compiled ahead: %s failed", PROGRAM)
    return b""
