"""While one app attacks, users of another are answered about as quickly as if it were alone."""

from __future__ import annotations

from statistics import quantiles

import pytest

from benchmarks.neighbours import ATTACKS, measure

SECONDS = 8.0
TIMES = 2.0
SLACK = 15.0  # ms: the 99th percentile of some hundred messages on a shared machine


@pytest.mark.slow
async def test_neighbours_of_an_attack_are_answered() -> None:
    """p99 within twice that of a quiet host, for every kind of attack but plain traffic, which
    wants the same processors.
    """
    quiet = quantiles((await measure(None, SECONDS)).latencies, n=100)[98]
    slow = {}
    for name, javascript in ATTACKS.items():
        if name != "flood":
            sample = await measure(javascript, SECONDS)
            p99 = quantiles(sample.latencies, n=100)[98]
            if p99 > quiet * TIMES + SLACK:
                slow[name] = p99
            assert sample.rss < 150 << 20
    assert not slow, (quiet, slow)
