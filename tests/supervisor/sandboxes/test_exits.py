"""Why a process ended, by its exit code and what it wrote."""

from __future__ import annotations

import signal

import pytest

from supervisor.outcomes import Outcome
from supervisor.sandboxes.exits import classify_exit

from ...apps import make_app


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("FATAL ERROR: Reached heap limit - JavaScript heap out of memory", Outcome.HEAP),
        ("# Fatal error in , line 0\n# Out of memory: HashMap::Initialize\n#", Outcome.MEMORY),
        ("# Fatal process out of memory: Zone\n#", Outcome.MEMORY),
        ("# Fatal error in , line 0\n# Check failed: x\n#", Outcome.CRASHED),
    ],
)
def test_what_v8_wrote_tells_which_memory_was_short(stderr: str, expected: Outcome) -> None:
    """What is a limit slows an app down; what is a crash trips it."""
    limits = make_app("").limits
    assert classify_exit(-signal.SIGTRAP, stderr, limits).outcome == expected
