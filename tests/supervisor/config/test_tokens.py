"""When a token of an operator expires, and what is refused as a time to expire."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from supervisor.config.tokens import AdminToken, parse_tokens


def token(expires: Any) -> AdminToken:
    (found,) = parse_tokens([{"name": "a", "sha256": "0" * 64, "expires": expires}])
    return found


@pytest.mark.parametrize("day", ["2027-01-31", date(2027, 1, 31)])
def test_a_day_counts_to_its_end_in_utc(day: str | date) -> None:
    end = datetime(2027, 2, 1, tzinfo=UTC)
    assert not token(day).is_expired(end - timedelta(seconds=1))
    assert token(day).is_expired(end)


def test_a_moment_counts_in_its_zone() -> None:
    moment = datetime(2027, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    for given in (moment, "2027-01-31T12:00:00+02:00"):
        assert token(given).expires == datetime(2027, 1, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "expires",
    [
        "soon", "", 5, True, "2027-02-30",
        "2027-01-31T12:00:00", datetime(2027, 1, 31),  # noqa: DTZ001
        # not in the years that there are in UTC
        "0001-01-01T00:00:00+12:00", "9999-12-31T23:00:00-09:00",
        datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=9))),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_what_was_expected(expires: Any) -> None:
    with pytest.raises(ValueError, match="token 1: expected as expires a day or a moment"):
        token(expires)
