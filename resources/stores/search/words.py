"""The words of a text, as Lucene's StandardTokenizer finds them, in lower case.

The rules are those of Unicode's text segmentation (UAX 29) with what Lucene adds to them: a run of
Thai, Lao, Khmer or Burmese letters is one word, as no rule can divide it; each ideograph is a word;
so is an emoji, a flag or a keycap. The tables of Unicode are those of the package `regex`, newer
than Lucene's.
"""

from __future__ import annotations

import re
from functools import cache
from string import Template

import regex

Pattern = re.Pattern[str] | regex.Pattern[str]
Match = re.Match[str] | regex.Match[str]

TOKEN_MAX = 255  # UTF-16 units; what is left of a longer word is another one


# Characters that are looked at for a word; one near their end is looked at again by itself.
_LOOK = 3 * TOKEN_MAX


def lower(text: str) -> str:
    """Each character in lower case by itself, as Lucene does it: no rule for a final sigma, one
    dotless i.
    """
    return text.replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    found: list[str] = []
    for piece in text.split(" "):  # which is in no word
        small = lower(piece)
        if len(piece) <= TOKEN_MAX // 2 and _LATIN.fullmatch(small):
            found.append(small)
        elif piece.isascii():
            found += _segmented(small, _ASCII_WORD)
        else:
            found += map(lower, _segmented(piece, _everywhere()))
    return found


def _segmented(text: str, pattern: Pattern) -> list[str]:
    found: list[str] = []
    at, size = 0, len(text)
    while at < size:
        match = pattern.search(text, at, at + _LOOK)
        if match is None:
            at += _LOOK - TOKEN_MAX
            continue
        end = match.end()
        if end - match.start() > TOKEN_MAX // 2 or at + _LOOK - end < TOKEN_MAX:
            match = _cut(pattern, match)
            end = match.end()
        if match["none"] is None:
            found.append(match[0])
        at = end
    return found


def _cut(pattern: Pattern, match: Match) -> Match:
    """A long word: what Lucene would find if the text ended `TOKEN_MAX` units after its begin."""
    text, start = match.string, match.start()
    units = text[start : start + TOKEN_MAX].encode("utf-16-le", "surrogatepass")[: 2 * TOKEN_MAX]
    shorter = pattern.match(text, start, start + len(units.decode("utf-16-le", "ignore")))
    assert shorter is not None
    return shorter


# Most pieces are a word of these, and need no more than that: letters and digits, never divided.
_LATIN = re.compile("[0-9a-z\u00df-\u00f6\u00f8-\u024f]+")
# The rules below, where every character is of ASCII.
_ASCII_RUN = r"(?:[a-z]++(?:[.:'](?=[a-z]))?+|[0-9]++(?:[.,;'](?=[0-9]))?+)++"
_ASCII_WORD = re.compile(f"_*+{_ASCII_RUN}(?:_++{_ASCII_RUN})*+_*+|(?P<none>_++)")

# Skin tones extend what they follow in newer tables of Unicode; in Lucene's they do not.
_SKIN = r"\U0001F3FB-\U0001F3FF"
_EXTENDS = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]"
_SELECTORS = r"\uFE0E\uFE0F"  # of an emoji's presentation
_FACE = r"\p{Extended_Pictographic}"
_WITH_FACE = rf"(?:[{_EXTENDS}--[\u200D{_SELECTORS}{_SKIN}]]|\u200D++(?![{_FACE}{_SKIN}]))*+"
_TONED = rf"(?:%s\p{{Emoji_Modifier_Base}}{_WITH_FACE})?+[{_SKIN}]{_WITH_FACE}"
_EMOJI = rf"(?:{_TONED}|%s{_FACE}{_WITH_FACE}\uFE0F?+)"
_PARTS = {
    "more": rf"[{_EXTENDS}--[{_SKIN}]]*+",
    "letter": r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}]",
    "in_word": r"[\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=Single_Quote}]",
    "digit": r"[\p{WB=Numeric}\uFF10-\uFF19]",
    "in_number": r"[\p{WB=MidNum}\p{WB=MidNumLet}\p{WB=Single_Quote}]",
    "undivided": r"[\p{LB=SA}[\p{M}&&[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]]",
    "emoji": _EMOJI % (r"\u200D*+", r"\u200D*+"),
    "joined": r"\u200D++" + _EMOJI % ("", ""),
    "on_key": rf"[{_EXTENDS}--[{_SELECTORS}{_SKIN}]]",
}
_PARTS["run"] = Template(
    r"""(?:
        (?:\p{WB=Katakana}${more})++
      | (?:
            \p{WB=Hebrew_Letter}${more}\p{WB=Single_Quote}${more}
          | \p{WB=Hebrew_Letter}${more}\p{WB=Double_Quote}${more}\p{WB=Hebrew_Letter}${more}
          | ${letter}${more}(?:${in_word}${more}${letter}${more})*+
          | ${digit}${more}(?:${in_number}${more}${digit}${more})*+
        )++
    )"""
).substitute(_PARTS)


@cache
def _everywhere() -> Pattern:
    """The rules for all texts. Compiling them takes 15 ms, and few processes need them."""
    return regex.compile(Template(_RULES).substitute(_PARTS))


# Each part can match one text in one way only and gives nothing back, and what begins like a word
# and is none (`none`) is skipped as a whole: the time is linear.
_RULES = r"""(?xV1)
    (?:\p{WB=ExtendNumLet}${more})*+ ${run} (?:(?:\p{WB=ExtendNumLet}${more})++${run})*+
        (?:\p{WB=ExtendNumLet}${more})*+
  | (?:${undivided}${more})++
  | [\p{Script=Han}\p{Script=Hiragana}]${more}
  | ${emoji}(?:${joined})*+
  | [\#*]${on_key}*+\uFE0F\u20E3${on_key}*+
  | [\#*](?=[${on_key}--\u20E3]*+\u20E3)${on_key}*+
  | (?:\p{WB=Regional_Indicator}${more}){2}
  | (?P<none>(?:\p{WB=ExtendNumLet}${more})++|\u200D++)
    """
