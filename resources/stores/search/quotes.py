"""Phrases in single quotes, as the old interface wrote them: `msisdn:'+27761234561'`.

They were phrases in Riak Search. In Lucene's language `'` is an ordinary character: such a query is
valid, and finds nobody.
"""

from __future__ import annotations

import re

_PHRASE = re.compile(r"(?<![\w.\\-])[a-z][\w.\\-]{0,100}:'[^'\n]{0,200}'")
_LENGTH = 64 * 1024  # characters of a text that are looked at


def quoted(text: str) -> list[str]:
    """Every field with a value in single quotes in a query, or in any other text."""
    return _PHRASE.findall(text[:_LENGTH])


def advice(phrase: str) -> str:
    """What to do about one of those."""
    name, _, value = phrase.partition(":")
    better = value[1:-1].replace("\\", "\\\\").replace('"', '\\"')
    return f'{phrase} is no phrase here, and finds nobody: write {name}:"{better}"'
