"""Trio's clock, for what looks at it many times a message."""

from __future__ import annotations

from collections.abc import Callable

import trio


def clock() -> Callable[[], float]:
    """Return what tells the time as `trio.current_time` does, which takes three more calls to get
    there. To be called inside of Trio; it is of use until that ends.
    """
    return trio.lowlevel.current_clock().current_time
