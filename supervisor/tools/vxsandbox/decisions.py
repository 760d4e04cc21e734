"""What was decided about each key of the old config, and what cannot be converted."""

from __future__ import annotations

from typing import Any

from attrs import define, field

SHOWN_MAX = 120  # characters of a value
LINE_MAX = 1000  # characters of a decision


class CannotMigrate(Exception):
    """The config cannot be converted; the text names every unknown key, one a line."""


@define
class Decisions:
    """One line each, whatever the YAML has."""

    lines: list[str] = field(factory=list)
    refused: list[str] = field(factory=list)

    def say(self, key: str, text: str) -> None:
        """Report what became of a key."""
        self.lines.append(one_line(f"{key}: {text}"))

    def refuse(self, key: str, text: str) -> None:
        """Report a key that cannot be converted."""
        self.refused.append(one_line(f"{key}: {text}"))


def one_line(text: str) -> str:
    """A text without line breaks and control characters, cut off where it is long."""
    plain = "".join(char if char.isprintable() else " " for char in text[: 2 * LINE_MAX])
    return " ".join(plain.split())[:LINE_MAX]


def shown(value: Any) -> str:
    """Show a value of the YAML."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
