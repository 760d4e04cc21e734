"""The fields of a contact that can be searched, and how their texts are analysed: the same way for
contacts and for queries.

Whole values as they are: key, user_account, groups. Whole values in lower case: the addresses.
Words in lower case: names, extras, subscriptions. Moments: dates; patterns on them see the text.
Words are those of Lucene's StandardAnalyzer without stop words.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from .nodes import QueryError
from .words import lower, words

DEFAULT = "name"
WHOLE_MAX = 8000  # characters of a whole value; the rest of a longer one is not searched
DYNAMIC = ("extras-", "subscription-")


class Kind(Enum):
    """How a field's values are compared."""

    EXACT = "exact"
    FOLDED = "folded"
    WORDS = "words"
    DATE = "date"


FIELDS = {
    **dict.fromkeys(("key", "user_account", "groups"), Kind.EXACT),
    **dict.fromkeys(
        (
            "msisdn",
            "email_address",
            "twitter_handle",
            "facebook_id",
            "bbm_pin",
            "gtalk_id",
            "mxit_id",
            "wechat_id",
        ),
        Kind.FOLDED,
    ),
    **dict.fromkeys(("name", "surname"), Kind.WORDS),
    **dict.fromkeys(("dob", "created_at"), Kind.DATE),
}


def kind_of(name: str) -> Kind:
    """The kind of a field; unknown ones have words, which no contact contains."""
    return FIELDS.get(name, Kind.WORDS)


def fold(name: str, text: str) -> str:
    """A piece of a field's value as it is compared."""
    return (text if kind_of(name) in (Kind.EXACT, Kind.DATE) else lower(text))[:WHOLE_MAX]


_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?Z?)?)?)?",
    re.ASCII,
)
_STEPS = (
    timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1),
    timedelta(microseconds=1),
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_DATE = len("2014-06-01 10:30:00.000000")


def period(text: str, position: int | None = None) -> tuple[int, int]:
    """The first and last microsecond of a date that may be cut short: `2014`, `2014-06`,
    `2014-06-01 10:30`.

    Raises:
        QueryError: It is not a date.
    """
    found = _DATE.fullmatch(text.strip())
    if found is None:
        raise QueryError(
            position,
            f'expected a date such as 2014, 2014-06-01 or "2014-06-01 10:30", got {text!r}',
        )
    year, month, day, hour, minute, second = (
        int(part) if part else None for part in found.groups()[:6]
    )
    assert year is not None
    fraction = found[7]
    try:
        micros = int((fraction or "0").ljust(6, "0"))
        begin = datetime(
            year, month or 1, day or 1, hour or 0, minute or 0, second or 0, micros, tzinfo=UTC
        )
        if month is None:
            last = begin.replace(month=12, day=31) + timedelta(days=1, microseconds=-1)
        elif day is None:
            last = begin.replace(day=monthrange(year, month)[1]) + timedelta(
                days=1, microseconds=-1
            )
        else:
            given = sum(part is not None for part in (hour, minute, second, fraction))
            last = begin + (_STEPS[given] - timedelta(microseconds=1))
    except (ValueError, OverflowError):
        raise QueryError(position, f"there is no date {text!r}") from None
    return _micros(begin), _micros(last)


def _micros(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def _moment(text: str) -> int:
    """A date of a contact in microseconds."""
    if len(text) == _WHOLE_DATE:  # no part of it is missing
        return _micros(datetime.fromisoformat(text + "+00:00"))
    return period(text)[0]


class Document:
    """A contact as it is searched: field to its tokens (keywords: whole values; dates: their text),
    and dates as microseconds.
    """

    __slots__ = ("dates", "tokens")

    def __init__(self, contact: Mapping[str, Any], also: Collection[str] = ()) -> None:
        """Make it from a contact in its JSON shape, or from something else that has such fields and
        others (`also`), which have words.

        Fields that are null or empty are left out.
        """
        self.tokens: dict[str, list[str]] = {}
        self.dates: dict[str, int] = {}
        for name, value in contact.items():
            if value in (None, "", []) or not (
                name in FIELDS or name.startswith(DYNAMIC) or name in also
            ):
                continue
            tokens = self._tokens(name, value)
            if tokens:
                self.tokens[name] = tokens

    def _tokens(self, name: str, value: Any) -> list[str]:
        match kind_of(name):
            case Kind.EXACT:
                return (
                    [one[:WHOLE_MAX] for one in value]
                    if isinstance(value, list)
                    else [fold(name, value)]
                )
            case Kind.FOLDED:
                return [fold(name, value)]
            case Kind.DATE:
                self.dates[name] = _moment(value)
                return [value]
            case Kind.WORDS:
                return words(as_text(value))


def as_text(value: Any) -> str:
    """An extra that is not a string, as the text that is searched: true, 5, 1.5."""
    return str(value).lower() if isinstance(value, bool) else str(value)
