"""How many examples property tests try: the same few in every run, many others under `-m slow`."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck

TIMES = 10  # as many under -m slow, where a test does not say how many
_PATIENT = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]

for name, count in (("few", 50), ("many", 100 * TIMES)):
    hypothesis.settings.register_profile(
        name,
        max_examples=count,
        derandomize=name == "few",
        print_blob=name == "many",
        database=None,
        deadline=None,  # what a test bounds it measures itself: a machine may be as slow as it is
        suppress_health_check=_PATIENT,
    )


def choose(config: pytest.Config) -> None:
    """Load the profile that the command line asks for."""
    hypothesis.settings.load_profile("few" if "not slow" in config.option.markexpr else "many")


def are_many() -> bool:
    """Whether this run is for many examples."""
    return hypothesis.settings.default is not None and not hypothesis.settings.default.derandomize


def examples(few: int, many: int | None = None, **more: Any) -> hypothesis.settings:
    """The settings of a test: its number of examples by default, and under `-m slow`."""
    return hypothesis.settings(max_examples=(many or few * TIMES) if are_many() else few, **more)
