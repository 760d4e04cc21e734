"""Tokens of operators: who may use the admin port, for what, and until when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, Literal, get_args

from attrs import field, frozen

from .units import show

Scope = Literal["read", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME_MAX = 100  # characters
KEYS = ("name", "sha256", "scopes", "expires")
SHORT = 8  # digits of the SHA-256 that name a token without a name


@frozen
class AdminToken:
    """One of listen.admin_tokens.

    Attributes:
        sha256: Of the token, in hex.
        name: Whose it is, for the audit log.
        scopes: What it is good for: to read, or also to change something.
        expires: When it is good for nothing any more; None: never.
    """

    sha256: str = field(repr=False)
    name: str
    scopes: tuple[Scope, ...] = SCOPES
    expires: datetime | None = None

    def is_expired(self, now: datetime | None = None) -> bool:
        """Whether its time is over."""
        return self.expires is not None and (now or datetime.now(UTC)) >= self.expires

    def may(self, scope: Scope) -> bool:
        """Whether it is good for something; to operate includes to read."""
        return scope in self.scopes or (scope == "read" and "operate" in self.scopes)


def plain_token(sha256: str) -> AdminToken:
    """A token of which only the SHA-256 is given: it may do everything."""
    return AdminToken(sha256, f"token-{sha256[:SHORT]}")


def parse_tokens(value: Any) -> tuple[AdminToken, ...]:
    """Read a list of tokens, each the SHA-256 or a table. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list of tokens, got {show(value)}")  # noqa: TRY004  # as all
    return tuple(_token(number, one) for number, one in enumerate(value, 1))


def _token(number: int, value: Any) -> AdminToken:
    if isinstance(value, str):
        return plain_token(value)
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004  # as all of them
            f"token {number}: expected a SHA-256, or a table with {', '.join(KEYS)};"
            f" got {show(value)}"
        )
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        known = ", ".join(KEYS)
        raise ValueError(f"token {number}: unknown key {show(unknown[0])}; known: {known}")
    missing = [key for key in ("name", "sha256") if not isinstance(value.get(key), str)]
    if missing:
        got = show(value.get(missing[0]))
        raise ValueError(f"token {number}: expected a text as {missing[0]}, got {got}")
    name = value["name"]
    if not 0 < len(name) <= NAME_MAX or not name.isprintable():
        raise ValueError(
            f"token {number}: expected a name of 1 to {NAME_MAX} characters, got {show(name)}"
        )
    return AdminToken(
        value["sha256"],
        name,
        _scopes(number, value.get("scopes", list(SCOPES))),
        _expires(number, value.get("expires")),
    )


def _scopes(number: int, value: Any) -> tuple[Scope, ...]:
    if not isinstance(value, list) or not value or any(one not in SCOPES for one in value):
        allowed = " and ".join(map(show, SCOPES))
        raise ValueError(f"token {number}: expected scopes among {allowed}, got {show(value)}")
    return tuple(scope for scope in SCOPES if scope in value)


def _expires(number: int, value: Any) -> datetime | None:
    """A moment, or the end of a day in UTC."""
    if value is None:
        return None
    found = value
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value) if ":" in value else date.fromisoformat(value)
        if isinstance(found, datetime) and found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: in UTC it is before year 1, or after 9999
        found = None
    if isinstance(found, date) and not isinstance(found, datetime):
        return datetime.combine(found, time.max, UTC)
    raise ValueError(
        f"token {number}: expected as expires a day or a moment with its zone, such as 2027-01-31"
        f" or 2027-01-31T12:00:00Z, got {show(value)}"
    )


def twice(tokens: Sequence[AdminToken]) -> str | None:
    """A name that two tokens have; None if each has its own."""
    names = [one.name for one in tokens]
    return next((name for name in names if names.count(name) > 1), None)
