"""Watches the CPU time of the processes that have runs: ends those that used theirs up, and has
those that use much take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from attrs import define, field

from resources.fence import fence

from ..errors import SandboxFault
from ..host.cpus import own_cpus
from ..outcomes import Outcome
from .run import INTERNAL
from .sandbox import Sandbox

HEAVY_TURN = 0.2  # seconds for which such a run goes on before it is the next one's turn
TICK = 0.05  # seconds between two looks


def cores_for_heavy() -> int:
    """How many cores starts of processes, and runs that use much CPU, may occupy."""
    return own_cpus(less=1)


@define(eq=False)
class CpuWatch:
    """The watch over the processes that `busy` returns. One that cannot be looked at is ended."""

    _busy: Callable[[], Sequence[Sandbox]]
    _cores: int = field(factory=cores_for_heavy, init=False)
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
        turn, cores = int(trio.current_time() / HEAVY_TURN), self._cores
        for place, sandbox in enumerate(heavy):
            sandbox.cpu.pause(on=(place - turn * cores) % len(heavy) >= cores)
