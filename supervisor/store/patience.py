"""Wait for the store during a start, as the running service does: a store that is away comes back,
and one that loads is soon ready.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from resources.stores.redis import StoreError

PAUSE = (0.1, 5.0)  # seconds between two tries: first, most
LOADING = "loading the dataset"  # in the error of a server that will be ready soon

T = TypeVar("T")

log = logging.getLogger(__name__)


def is_loading(error: StoreError) -> bool:
    """Whether the server is up and still loading its data."""
    return LOADING in str(error)


async def until_answered(
    what: str,
    ask: Callable[[], Awaitable[T]],
    tell: Callable[[str], None],
    is_worth: Callable[[StoreError], bool] = lambda _: True,
) -> T:
    """Ask the store until it answers; call `tell` with a line each time it does not.

    Args:
        what: What we wait for, in that line.
        ask: Asks once.
        tell: Called with the line.
        is_worth: Whether to try again after an error.

    Raises:
        StoreError: One that is not worth another try.
    """
    pause = PAUSE[0]
    while True:
        try:
            return await ask()
        except StoreError as error:
            if not is_worth(error):
                raise
            line = f"the start waits for the store ({what}): {error}"
            log.warning("%s; next try in %.1f s", line, pause)
            tell(line)
        await trio.sleep(pause)
        pause = min(pause * 2, PAUSE[1])
