"""Watches the CPU time of the processes that have runs: ends those that used theirs up, and has
those that use much take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from attrs import define, field

from resources.fence import fence

from ..errors import SandboxFault
from ..host.cpus import usable_cpus
from ..outcomes import Outcome
from .run import INTERNAL
from .sandbox import Sandbox

# that starts of processes, and runs that use much CPU, may occupy
CORES_FOR_HEAVY = max(1, usable_cpus() - 1)
HEAVY_TURN = 0.2  # seconds for which such a run goes on before it is the next one's turn
TICK = 0.05  # seconds between two looks


@define(eq=False)
class CpuWatch:
    """The watch over the processes that `busy` returns. One that cannot be looked at is ended."""

    _busy: Callable[[], Sequence[Sandbox]]
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def wake(self) -> None:
        """A process is busy now."""
        self._bell.unpark()

    async def run(self) -> None:
        """Look every TICK, as long as any process is busy."""
        while True:
            busy = self._busy()
            if not busy:
                await self._bell.park()
            for sandbox in busy:
                with fence("cpu", f"app {sandbox.app.name}") as caught:
                    sandbox.check_cpu()
                if caught.error is not None:
                    sandbox.end(SandboxFault(Outcome.CRASHED, INTERNAL))
            self._take_turns([sandbox for sandbox in busy if sandbox.cpu.is_hungry])
            await trio.sleep(TICK)

    def _take_turns(self, heavy: Sequence[Sandbox]) -> None:
        """Let only some of the runs that use much CPU go on, so that they never have all cores; the
        others are stopped until it is their turn.
        """
        turn = int(trio.current_time() / HEAVY_TURN)
        for place, sandbox in enumerate(heavy):
            sandbox.cpu.pause(on=(place - turn * CORES_FOR_HEAVY) % len(heavy) >= CORES_FOR_HEAVY)
