"""What the tests of sandboxes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...hostile.granted import granted_harness


@pytest.fixture(scope="session")
def granted() -> Iterator[Path]:
    """A harness that hands its own realm to the app."""
    with granted_harness() as harness:
        yield harness
