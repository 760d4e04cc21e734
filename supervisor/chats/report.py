"""How tests went, for people and as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from xml.etree import ElementTree as ET

from attrs import frozen

from ..config.document import one_line
from .chat import Chat, Move
from .play import Failure, Result

LOG_SHOWN = 5  # newest lines of the app's log
LOG_LINES = 12  # of one of them: a stack has many


def shown(file: FilePath) -> str:
    """The name of a file, relative to the current folder where that is shorter."""
    here = FilePath.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def lines_of(result: Result) -> Iterator[str]:
    """What went wrong in a test, each line without its end. Lines of a difference begin with `-`
    (expected) and `+` (found).
    """
    for one in result.failures:
        yield from _failure(result.chat, one)
    if result.log:
        yield "    the app's log:"
        for entry in result.log[-LOG_SHOWN:]:
            first, *rest = entry.message.split("\n")
            yield f"      {entry.level} {one_line(first)}"
            yield from (f"        {one_line(line)}" for line in rest[:LOG_LINES])


def _failure(chat: Chat, one: Failure) -> Iterator[str]:
    yield f"  {shown(chat.file)}:{chat.line_of(one.path)}: {_where(chat, one)}{one_line(one.text)}"
    yield from (f"    {one_line(line)}" for line in one.lines)


def _where(chat: Chat, one: Failure) -> str:
    if one.path[:1] != ("steps",):
        return "at the end: " if str(one.path[:1]).startswith("('expect_") else ""
    number = one.path[1]
    move = next((move for move in chat.moves if move.path == one.path[:2]), None)
    return f"step {int(number) + 1}{'' if move is None else f' ({_action(move)})'}: "


def _action(move: Move) -> str:
    step = move.step
    if step.hang_up:
        return "hang up"
    word, text = ("send", step.send) if step.dial is None else ("dial", step.dial)
    return one_line(f'{word} "{text}"')


@frozen
class Case:
    """A test for JUnit; `message` is empty if it passed."""

    file: FilePath
    seconds: float
    message: str = ""
    lines: Sequence[str] = ()


def case_of(result: Result) -> Case:
    """A conversation as a case."""
    if result.passed:
        return Case(result.chat.file, result.seconds)
    first = result.failures[0]
    message = f"{_where(result.chat, first)}{one_line(first.text)}"
    return Case(result.chat.file, result.seconds, message, list(lines_of(result)))


def junit(cases: Sequence[Case], seconds: float) -> bytes:
    """The results as JUnit XML."""
    suite = ET.Element(
        "testsuite",
        name="jsbox test",
        tests=str(len(cases)),
        failures=str(sum(bool(one.message) for one in cases)),
        errors="0",
        time=f"{seconds:.3f}",
    )
    for one in cases:
        file = FilePath(shown(one.file))
        case = ET.SubElement(
            suite,
            "testcase",
            classname=one_line(str(file.parent)).replace("/", "."),
            name=one_line(file.name.split(".")[0]),
            file=one_line(str(file)),
            time=f"{one.seconds:.3f}",
        )
        if one.message:
            ET.SubElement(case, "failure", message=one.message).text = "\n".join(one.lines)
    text: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
