"""The back ends of the app of `jsbox dev`: the stubs of a file, as `jsbox test` and `jsbox load`
have them.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import define, evolve

from ..config import Address, Config, InvalidConfig
from ..config.document import read_toml
from ..host.systemd import Systemd
from ..load.campaign import Stub
from ..load.pieces import FILE_MAX, Pieces
from ..load.reading import CONVERTER
from ..load.stub import BOUNDS, STOP_SECONDS, Stubs
from ..ports.http import open_http
from ..ports.listening import listen

LOOPBACK = Address("127.0.0.1", 0)


def read_stubs(file: Path) -> Sequence[Stub]:
    """The tables [stub."URL"] of a test or a campaign. Raises InvalidConfig."""
    document, lines = read_toml(file, FILE_MAX)
    pieces = Pieces(file, lines, CONVERTER)
    found = pieces.stubs(document.get("stub", {}))
    if pieces.problems:
        raise InvalidConfig(file, pieces.problems)
    return found


@define(eq=False)
class BackEnds:
    """Stubs that answer for the hosts in their URLs. Requests to other hosts go where they go."""

    _file: Path | None
    _playing: Stubs

    def put_into(self, config: Config) -> Config:
        """Read the file again; return the config in which requests go to the stubs, unless it sends
        them elsewhere itself. Raises InvalidConfig.
        """
        if self._file is None:
            return config
        self._playing.stubs = read_stubs(self._file)
        url = f"http://127.0.0.1:{self._playing.port}"
        stubs = dict.fromkeys(self._playing.hosts, url)
        apps = {
            name: evolve(app, http=evolve(app.http, connect_to=stubs | {**app.http.connect_to}))
            for name, app in config.apps.items()
        }
        return evolve(config, apps=apps)


@asynccontextmanager
async def open_back_ends(file: Path | None) -> AsyncIterator[BackEnds]:
    """Serve the stubs of a file; without one, nothing listens."""
    playing = Stubs((), random.Random(1))  # noqa: S311  # not for secrets
    if file is None:
        yield BackEnds(None, playing)
        return
    listeners = await listen("the stubs", LOOPBACK, Systemd())
    async with open_http(playing, listeners, "stub", STOP_SECONDS, bounds=BOUNDS) as playing.port:
        yield BackEnds(file, playing)
