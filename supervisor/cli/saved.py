"""A conversation in the terminal as a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from ..client.phone import Turn

SUFFIX = ".chat.toml"
LENGTH_MAX = 200  # steps of a test


@frozen
class Said:
    """What the user did (dial, send, sms or hang_up), and what came back."""

    action: str
    text: str
    turn: Turn


def save(name: Path, number: str, said: Sequence[Said]) -> Path:
    """Write a test; return its file.

    Raises:
        ValueError: There is nothing that a test could hold.
        OSError: It cannot be written, or is there already.
    """
    if not said:
        raise ValueError("nothing was said yet")
    if len(said) > LENGTH_MAX:
        raise ValueError(f"{len(said)} steps; a test has {LENGTH_MAX} at most")
    kinds = {one.action for one in said}
    if "sms" in kinds and "dial" in kinds:
        raise ValueError("messages within and without a session cannot be in one test")
    text = "\n".join(_lines(number, said)) + "\n"
    file = name if name.name.endswith(SUFFIX) else name.with_name(name.name + SUFFIX)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    return file


def _lines(number: str, said: Sequence[Said]) -> Iterator[str]:
    from ..chats.update import toml

    yield f"from = {toml(number)}"
    for one in said:
        yield "\n[[steps]]"
        if one.action == "hang_up":
            yield "hang_up = true"
        else:
            yield f"{'dial' if one.action == 'dial' else 'send'} = {toml(one.text)}"
        if one.turn.replies:
            yield f"expect = {toml(one.turn.text)}"
        if one.turn.closed:
            yield "expect_end = true"
        if one.turn.outcome != "ok":
            yield f"expect_outcome = {toml(one.turn.outcome)}"
