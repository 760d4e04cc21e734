r"""Wildcards and Lucene's regular expressions.

A regular expression becomes one that Python's `regex` and Rust's `regex-syntax` read alike: every
literal character that could have a meaning is written `\U0010ffff`, groups do not capture, and `.`
matches line ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from attrs import define, field

from .fields import WHOLE_MAX, fold
from .nodes import Any, QueryError

PATTERN_MAX = 256  # characters of a regular expression
REPEAT_MAX = WHOLE_MAX + 1  # of {n,m}: as good as any greater number, as no token is longer
WRITTEN_OUT_MAX = 20_000  # characters of a regular expression with all its repetitions
INTEGER_MAX = 2**31 - 1
ANY = "(?s:.)"

_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}", re.ASCII)
_CLASSES = {  # each without the brackets
    "d": "0-9",
    "D": r"\U00000000-/:-\U0010ffff",
    "w": "0-9A-Z_a-z",
    "W": r"\U00000000-/:-@\[-\^`{-\U0010ffff",
    "s": r" \t\n\r",
    "S": r"\U00000000-\U00000008\U0000000b\U0000000c\U0000000e-\U0000001f!-\U0010ffff",
}
_UNSUPPORTED = frozenset('~&<#"')
# What two of these in a row are together.
_TWICE = {one + two: one if one == two else "*" for one in "*+?" for two in "*+?"}


def wildcard_of(name: str, raw: str) -> tuple[str | Any, ...]:
    r"""The pattern of a wildcard term; `\*` is a star. As in Lucene, what is escaped is not put in
    lower case.
    """
    pattern: list[str | Any] = []
    at = 0
    while at < len(raw):
        char = raw[at]
        if char == "\\" and at + 1 < len(raw):
            at += 1
            pattern.append(raw[at])
        elif char in "?*":
            end = at
            while raw[end : end + 1] in ("?", "*"):
                end += 1
            pattern += [Any.ONE] * raw.count("?", at, end)
            if "*" in raw[at:end]:
                pattern.append(Any.MANY)
            at = end - 1
        else:
            pattern += fold(name, char)
        at += 1
    return tuple(pattern)


def least_length(pattern: Sequence[str | Any]) -> int:
    """The length of the shortest token that a wildcard can match, in characters."""
    return sum(part is not Any.MANY for part in pattern)


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
    """A translation from left to right.

    As in Lucene, an operator is an ordinary character where there is nothing that it could apply
    to: `*` at the beginning. Not as there, `|` at an end has an empty alternative beside it.

    Attributes:
        atom: Where in `found` that begins which a quantifier repeats; None if there is none.
        quantifier: The quantifier that it already has.
        sizes: How much each of `found` adds to the length of all of it, written out.
        open: Where in `found` each open bracket is.
    """

    raw: str
    position: int
    fold: Callable[[str], str]
    at: int = 0
    found: list[str] = field(factory=list)
    sizes: list[int] = field(factory=list)
    atom: int | None = None
    quantifier: str = ""
    open: list[int] = field(factory=list)

    def translate(self) -> str:
        while self.at < len(self.raw):
            self.step(self.raw[self.at])
        if self.open:
            raise self.error("expected a closing ), got the end")
        return "".join(self.found)

    def error(self, text: str) -> QueryError:
        return QueryError(self.position + self.at, f"{text} (regular expression)")

    def step(self, char: str) -> None:  # noqa: C901  # one row an operator
        if self.atom is not None and char in "*+?{":
            self.repeat(char)
        elif char == "(":
            self.open.append(len(self.found))
            self.between("(?:")
        elif char == "|":
            self.between("|")
        elif char == ")" and (self.open or self.atom is not None):
            if not self.open:
                raise self.error("there is no ( for this )")
            start = self.open.pop()
            self.take(")", 1, start)
        elif char in _UNSUPPORTED:
            raise self.error(f"the operator {char} is not supported")
        elif char == "\\":
            self.escape()
        elif char == "[":
            self.char_class()
        elif char == ".":
            self.take(ANY)
        elif char == "@":
            self.take(f"(?:{ANY}*)")
        else:
            self.take(literal(self.fold(char)))

    def between(self, text: str) -> None:
        """Something after which a new sequence begins."""
        self.add(text, 0)
        self.at += 1
        self.atom = None

    def take(self, text: str, count: int = 1, start: int | None = None) -> None:
        """Something that can be repeated, from `start` on or by itself."""
        self.atom, self.quantifier = len(self.found) if start is None else start, ""
        self.add(text, 1)
        self.at += count

    def add(self, text: str, size: int) -> None:
        self.found.append(text)
        self.sizes.append(size)

    def repeat(self, char: str) -> None:
        if char == "{":
            quantifier, times, count = self.count()
        else:
            quantifier, times, count = char, 1, 1
        size = sum(self.sizes[self.atom :])
        if size * times > WRITTEN_OUT_MAX:
            raise self.error(f"it repeats more than {WRITTEN_OUT_MAX} characters, all in all")
        both = _TWICE.get(self.quantifier + quantifier)
        if both is not None:
            self.found[-1] = both
        else:
            if self.quantifier:
                self.found.insert(self.atom or 0, "(?:")
                self.sizes.insert(self.atom or 0, 0)
                self.add(")", 0)
            self.add(quantifier, size * max(times - 1, 0))
        self.quantifier = both or quantifier
        self.at += count

    def count(self) -> tuple[str, int, int]:
        """The quantifier `{n,m}` that stands here, how often it repeats at most, as written out,
        and its length.
        """
        count = _COUNT.match(self.raw, self.at)
        if count is None:
            raise self.error("expected {n}, {n,} or {n,m}")
        least, most = int(count[1]), int(count[2] or count[1])
        if max(least, most) > INTEGER_MAX:
            raise self.error(f"expected a number of at most {INTEGER_MAX}")
        if least > most:
            raise self.error("expected the smaller number first")
        few, many = min(least, REPEAT_MAX), min(most, REPEAT_MAX)
        if count[2] is None:
            return f"{{{few}}}", few, len(count[0])
        return f"{{{few},{many if count[2] else ''}}}", many, len(count[0])

    def escape(self) -> None:
        if self.at + 1 >= len(self.raw):
            raise self.error("expected a character after \\, got the end")
        char = self.raw[self.at + 1]
        members = _CLASSES.get(char)
        self.take(f"[{members}]" if members else literal(self.fold(char)), 2)

    def char_class(self) -> None:
        """`[a-z]`, `[^...]`; a `]` right after the opening is one of the characters, and so is
        whatever stands behind a `-`.
        """
        at = self.at + 1
        negated = self.raw[at : at + 1] == "^"
        at += negated
        members: list[str] = []
        while self.raw[at : at + 1] != "]" or not members:
            known = _CLASSES.get(self.raw[at + 1 : at + 2]) if self.raw[at : at + 1] == "\\" else ""
            if known:
                members.append(known)
                at += 2
                continue
            first, at = self.member(at)
            if self.raw[at : at + 1] == "-":
                last, at = self.member(at + 1)
                if first > last:
                    raise self.error(f"expected the smaller character first in {first}-{last}")
                members.append(f"\\U{ord(first):08x}-\\U{ord(last):08x}")
            else:
                members.append(f"\\U{ord(first):08x}")
        self.take(f"[{'^' if negated else ''}{''.join(members)}]", at + 1 - self.at)

    def member(self, at: int) -> tuple[str, int]:
        at += self.raw[at : at + 1] == "\\"
        if at >= len(self.raw):
            raise self.error("expected a closing ]")
        return self.fold(self.raw[at])[0], at + 1
