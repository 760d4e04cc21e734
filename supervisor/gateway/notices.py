"""The ends of runs on their way out over one channel: an outcome follows everything that its run
sent, so it waits here until that was read from the store, and in the line until it was handed out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from attrs import define, field

from .lines import Line, Notice, Taker
from .takers import Takers

KEPT_MAX = 1000  # outcomes that wait for a connection
# Outcomes of messages that no connection brought (pushes); any more are not sent.
NOTICES_MAX = 10_000
