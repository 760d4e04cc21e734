"""Reading configs written by a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import Config, InvalidConfig, load

APP = """
[apps.survey]
account = "acme"
javascript = "survey.js"
"""
CHANNEL = """
[channels.phone]
app = "survey"
"""


def read(folder: Path, text: str) -> Config:
    (folder / "jsbox.toml").write_text(text)
    return load(folder / "jsbox.toml")


def errors(folder: Path, text: str) -> list[str]:
    """The errors as `LINE: text`."""
    with pytest.raises(InvalidConfig) as raised:
        read(folder, text)
    assert all(
        line.startswith(f"{folder / 'jsbox.toml'}:") for line in str(raised.value).splitlines()
    )
    return [f"{problem.line}: {problem.text}" for problem in raised.value.problems]
