r"""Wildcards and Lucene's regular expressions.

A regular expression becomes one that Python's `regex` and Rust's `regex-syntax` read alike: every
literal character that could have a meaning is written `\U0010ffff`, groups do not capture, and `.`
matches line ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import define, field

from .fields import fold
from .nodes import Any, QueryError

PATTERN_MAX = 256  # characters of a wildcard or a regular expression
REPEAT_MAX = 1000  # of {n,m}
ANY = "(?s:.)"

_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}", re.ASCII)
_CLASSES = {
    "d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Z_a-z]", "W": "[^0-9A-Z_a-z]", "s": "[ \\t\\n\\r]",
    "S": "[^ \\t\\n\\r]",
}  # fmt: skip


def wildcard_of(name: str, raw: str) -> tuple[str | Any, ...]:
    r"""The pattern of a wildcard term; `\*` is a star."""
    pattern: list[str | Any] = []
    at = 0
    while at < len(raw):
        char = raw[at]
        if char == "\\" and at + 1 < len(raw):
            at += 1
            pattern += fold(name, raw[at])
        elif char == "?":
            pattern.append(Any.ONE)
        elif char != "*":
            pattern += fold(name, char)
        elif not pattern or pattern[-1] is not Any.MANY:
            pattern.append(Any.MANY)
        at += 1
    if len(pattern) > PATTERN_MAX:
        raise QueryError(
            None, f"a wildcard of {len(pattern)} characters, {PATTERN_MAX} are allowed"
        )
    return tuple(pattern)


def literal(text: str) -> str:
    """A text in a regular expression."""
    return "".join(
        char if char.isascii() and char.isalnum() else f"\\U{ord(char):08x}" for char in text
    )


def regex_of(name: str, raw: str, position: int) -> str:
    """Lucene's regular expression in the common syntax.

    Raises:
        QueryError: It is not one, or uses one of the operators ~ & < # and quotes, which no engine
            here has.
    """
    if len(raw) > PATTERN_MAX:
        raise QueryError(
            position, f"a regular expression of {len(raw)} characters, {PATTERN_MAX} are allowed"
        )
    return _Regex(raw, position, lambda text: fold(name, text)).translate()


@define
class _Regex:
    raw: str
    position: int
    fold: Callable[[str], str]
    at: int = 0
    found: list[str] = field(factory=list)
    open: int = 0
    may_repeat: bool = False  # whether what stands before can be repeated

    def translate(self) -> str:
        while self.at < len(self.raw):
            self.step(self.raw[self.at])
        if self.open:
            raise self.error("expected a closing ), got the end")
        return "".join(self.found)

    def error(self, text: str) -> QueryError:
        return QueryError(self.position + self.at, f"{text} (regular expression)")

    def step(self, char: str) -> None:  # noqa: C901  # one row an operator
        if char in "*+?{":
            self.repeat(char)
            return
        self.may_repeat = True
        match char:
            case "\\":
                self.escape()
            case "[":
                self.char_class()
            case "(":
                self.open += 1
                self.take("(?:")
                self.may_repeat = False
            case ")":
                if not self.open:
                    raise self.error("there is no ( for this )")
                self.open -= 1
                self.take(")")
            case "|":
                self.take("|")
                self.may_repeat = False
            case ".":
                self.take(ANY)
            case "@":
                self.take(f"(?:{ANY}*)")
            case "~" | "&" | "<" | "#" | '"':
                raise self.error(f"the operator {char} is not supported")
            case _:
                self.take(literal(self.fold(char)))

    def take(self, text: str, count: int = 1) -> None:
        self.found.append(text)
        self.at += count

    def repeat(self, char: str) -> None:
        if not self.may_repeat:
            raise self.error(f"there is nothing for {char} to repeat")
        self.may_repeat = False
        if char != "{":
            self.take(char)
            return
        count = _COUNT.match(self.raw, self.at)
        if count is None:
            raise self.error("expected {n}, {n,} or {n,m}")
        if max(int(number) for number in count.groups() if number) > REPEAT_MAX:
            raise self.error(f"at most {REPEAT_MAX} repetitions are allowed")
        if count[2] and int(count[2]) < int(count[1]):
            raise self.error("expected the smaller number first")
        self.take(count[0], len(count[0]))

    def escape(self) -> None:
        if self.at + 1 >= len(self.raw):
            raise self.error("expected a character after \\, got the end")
        char = self.raw[self.at + 1]
        self.take(_CLASSES.get(char) or literal(self.fold(char)), 2)

    def char_class(self) -> None:
        """`[a-z]`, `[^...]`; a `]` right after the opening is one of the characters."""
        at = self.at + 1
        negated = self.raw[at : at + 1] == "^"
        at += negated
        members: list[str] = []
        while self.raw[at : at + 1] != "]" or not members:
            if at >= len(self.raw):
                raise self.error("expected a closing ]")
            first, at = self.member(at)
            if self.raw[at : at + 1] == "-" and self.raw[at + 1 : at + 2] not in ("", "]"):
                last, at = self.member(at + 1)
                if first > last:
                    raise self.error(f"expected the smaller character first in {first}-{last}")
                members.append(f"\\U{ord(first):08x}-\\U{ord(last):08x}")
            else:
                members.append(f"\\U{ord(first):08x}")
        self.take(f"[{'^' if negated else ''}{''.join(members)}]", at + 1 - self.at)

    def member(self, at: int) -> tuple[str, int]:
        if self.raw[at] == "\\":
            at += 1
            if at >= len(self.raw):
                raise self.error("expected a closing ]")
        return self.fold(self.raw[at])[0], at + 1
