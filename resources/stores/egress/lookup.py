"""Looking up names, in threads of their own: a silent name server delays nobody else.

The C library looks names up, in a thread that cannot be stopped: what a request gives up on goes
on until the library gives up too. So the threads are counted until they really end, there is a
bound for all and one for each app, and an app that has none in use gets one before another gets
more.
"""

from __future__ import annotations

import socket
from collections import Counter

import trio
from attrs import define, field, frozen

from ..hosts import IPAddress, as_address
from .errors import EgressError, explain_lookup

THREADS = 128  # for all apps
SHARE = 8  # for one app, and no more than half of what is free
ADDRESSES_MAX = 64  # of one name that are considered


@define(eq=False)
class Lookups:
    """All look-ups in progress, including those that nobody waits for any more."""

    _running: Counter[str] = field(factory=Counter, init=False)
    _waiting: dict[str, trio.lowlevel.ParkingLot] = field(factory=dict, init=False)

    async def addresses(self, app: str, host: str) -> list[IPAddress]:
        """Return the addresses of a canonical host, IPv4 first.

        Raises:
            EgressError: It has none, or nobody knows at the moment.
        """
        address = as_address(host)
        if address is not None:
            return [address]
        share = _Share(self, app)
        try:
            found = await trio.to_thread.run_sync(
                _look_up,
                host,
                abandon_on_cancel=True,
                # documented: anything with its two methods
                limiter=share,  # type: ignore[arg-type]
            )
        except (OSError, UnicodeError) as error:
            raise EgressError(explain_lookup(host, error)) from error
        except RuntimeError as error:  # no thread can be started
            raise EgressError(
                f"the host {host} cannot be looked up at the moment: {error}"
            ) from error
        addresses = [address for address in map(as_address, found) if address is not None]
        return sorted(addresses, key=lambda address: address.version)

    async def acquire(self, app: str) -> None:
        """Wait until the app may use one more thread."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if app not in self._waiting and self._may_start(app):
            self._running[app] += 1
            return
        lot = self._waiting.setdefault(app, trio.lowlevel.ParkingLot())
        try:
            await lot.park()  # the one that wakes us has counted us
        except trio.Cancelled:
            if not lot and self._waiting.get(app) is lot:
                del self._waiting[app]
            raise

    def release(self, app: str) -> None:
        """Pass the thread to the waiting app that has the fewest."""
        self._running[app] -= 1
        if not self._running[app]:
            del self._running[app]
        while self._waiting:
            app = min(self._waiting, key=lambda other: self._running[other])
            if not self._may_start(app):
                return
            lot = self._waiting.pop(app)
            if lot.unpark():  # nobody, while those that were in it learn that they are cancelled
                self._running[app] += 1
            if lot:
                self._waiting[app] = lot

    def _may_start(self, app: str) -> bool:
        own, free = self._running[app], THREADS - self._running.total()
        return free > 0 and (own == 0 or (own < SHARE and own < free // 2))


@frozen
class _Share:
    """One app's share of the threads, as a limiter for Trio."""

    _lookups: Lookups
    _app: str

    # Trio's interface
    async def acquire_on_behalf_of(self, borrower: object) -> None:  # noqa: ARG002
        await self._lookups.acquire(self._app)

    def release_on_behalf_of(self, borrower: object) -> None:  # noqa: ARG002  # Trio's interface
        self._lookups.release(self._app)


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    distinct = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)
    return list(distinct)[:ADDRESSES_MAX]
