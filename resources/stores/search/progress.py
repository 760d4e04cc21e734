"""An index catches up, and the log says how far it is."""

from __future__ import annotations

import logging
import time

from .index import AccountIndex

PROGRESS_SECONDS = 2.0  # between two log lines about one index

log = logging.getLogger(__name__)


def catch_up(index: AccountIndex) -> None:
    """Read all changes into an index. Raises as `AccountIndex.catch_up`."""
    began = reported = time.monotonic()

    def progress(done: int, left: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= PROGRESS_SECONDS:
            reported = now
            rate = done / (now - began)
            log.info(
                "account %s: %d contacts are in the index, %d to go (%.0f/s)",
                index.account, done, left, rate,
            )  # fmt: skip

    index.catch_up(progress)
    seconds = time.monotonic() - began
    log.info("account %s: the index is up to date after %.1f s", index.account, seconds)
