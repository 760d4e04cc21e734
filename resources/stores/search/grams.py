"""Addresses as phrases of three characters each, so that `*x*` in values that differ from contact
to contact needs no look at every one of them.

`ann@x.org` is stored as `^an ann nn@ n@x ... rg$`, where `^` and `$` stand for characters that mark
its ends. It contains a text of three characters or more just if it contains the phrase of that
text's grams, so the answer needs no check. All addresses share one field of the index, in which
each gram begins with a letter for the address's own field.

An address with more than `LENGTH_MAX` characters has one mark instead; if there are any, others
have to look (`translate`).
"""

from __future__ import annotations

import re

from .fields import FIELDS, Kind

SIZE = 3  # characters of a gram
LENGTH_MAX = 256  # characters of an address; no e-mail address has more
START, END = "\x02", "\x03"
_CODES = {
    name: chr(ord("a") + n)
    for n, name in enumerate(name for name, kind in FIELDS.items() if kind is Kind.FOLDED)
}
_ODD = re.compile(r"[\x00-\x03\s]")  # what would end a gram, or has a meaning in it


def code_of(name: str) -> str | None:
    """The letter of a field that has grams."""
    return _CODES.get(name)


def mark_of_long(code: str) -> str:
    """What an address has that is too long. No gram begins like it."""
    return f"{code}\x01long"


def grams_of(code: str, value: str) -> list[str]:
    """The grams of an address; the mark if it is too long."""
    if len(value) > LENGTH_MAX:
        return [mark_of_long(code)]
    return phrase_of(code, value, from_start=True, to_end=True)


def phrase_of(code: str, text: str, *, from_start: bool = False, to_end: bool = False) -> list[str]:
    """The grams of a text, with the marks of an address's ends where the text reaches them; none if
    it is too short.
    """
    first, last = START * from_start, END * to_end
    if not _ODD.search(text):
        plain = first + text + last
        return [code + plain[at : at + SIZE] for at in range(len(plain) - SIZE + 1)]
    signs = [f"\x01{ord(char):x};" if _ODD.match(char) else char for char in text]
    whole = [*first, *signs, *last]
    return [code + "".join(whole[at : at + SIZE]) for at in range(len(whole) - SIZE + 1)]
