"""A service that lives while a property test tries its examples, and a neighbour who must be
answered after each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import trio

from supervisor.service import Service

from ..gateway_client import PATIENCE, Client, connect
from ..service import ECHO, Folder, running

NEIGHBOUR = "neighbour"


class Living:
    """A service in a thread of its own, so that examples, which are not async, can be tried on it.

    Not of attrs: Hypothesis shows arguments with all of their fields, and a service has many.
    """

    def __init__(self, service: Service, neighbour: Client) -> None:
        self.service = service
        self._neighbour = neighbour
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.current_thread()
        self._said = 0

    def run(self, what: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Run a coroutine in the service's loop."""
        return trio.from_thread.run(what, *arguments, trio_token=self._token)

    def is_well(self) -> None:
        """Assert that the service lives and that the neighbour is answered."""
        assert self._thread.is_alive()
        self._said += 1
        content = f"still there {self._said}"
        outcome, replies = self.run(self._say, content)
        assert outcome["outcome"] == "ok"
        assert [reply["content"] for reply in replies] == [f"you said {content}"]

    def stop(self, event: trio.Event) -> None:
        """Set an event in the service's loop, if it still turns."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(event.set)

    async def _say(self, content: str) -> Any:
        self._neighbour.frames.clear()  # of the messages before
        return await self._neighbour.say(content)


@contextmanager
def living(folder: Folder) -> Iterator[Living]:
    """The service of a folder's config, with the neighbour's app added."""
    folder.app(NEIGHBOUR, ECHO, account="victim")
    started: SimpleQueue[Living | BaseException] = SimpleQueue()
    stop = trio.Event()

    async def main() -> None:
        async with running(folder) as service, connect(service.gateway_url, NEIGHBOUR) as client:
            started.put(Living(service, client))
            await stop.wait()

    def thread() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # the test raises it
            started.put(error)
            raise

    runner = threading.Thread(target=thread, name="service")
    runner.start()
    found = started.get(timeout=PATIENCE)
    if isinstance(found, BaseException):
        runner.join()
        raise found
    try:
        yield found
    finally:
        found.stop(stop)
        runner.join(PATIENCE)
        assert not runner.is_alive()


def folder_in(path: Path) -> Folder:
    """A folder with an app that attackers may talk to."""
    folder = Folder(path)
    folder.app("phone", ECHO)
    return folder
