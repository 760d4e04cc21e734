"""What a contact may hold: turns the fields that an app, or a line of a file, gives into a change
for the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attrs import evolve

from .addresses import international
from .contract import Refused
from .messages import ADDRESS_FIELDS, now, shown, vumi_date
from .stores.contacts import EXTRAS, SUBSCRIPTIONS, Change

LENGTHS: dict[str, int | None] = {
    "name": 255, "surname": 255, "msisdn": 255, "twitter_handle": 100, "facebook_id": 100,
    "bbm_pin": 100,
    "gtalk_id": None, "mxit_id": None, "wechat_id": None, "email_address": None,
}  # fmt: skip
"""Text fields, and how many characters each may have."""
KEY_MAX = 255  # characters
MAPPINGS = {"extra": EXTRAS, "subscription": SUBSCRIPTIONS}

UNKNOWN = "unknown"
"""The msisdn of a contact without a number: the toolkits fail on a contact that has none."""

_YEAR_OR_MONTH = re.compile(r"(\d{4})(?:-(\d\d))?", re.ASCII)


def address_field(delivery_class: str) -> str:
    """The field for a delivery class. Raises Refused."""
    field = ADDRESS_FIELDS.get(delivery_class)
    if field is None:
        raise Refused(
            f"Unsupported delivery_class {shown(delivery_class)}: expected one of "
            f"{', '.join(ADDRESS_FIELDS)}"
        )
    return field


def new_contact(given: Mapping[str, Any], country_code: str = "") -> Change:
    """A new contact with these fields; key, user_account and unknown ones are ignored. National
    numbers become international by the country code, if there is one. Raises Refused.
    """
    change = _whole(given, country_code)
    return evolve(change, set={"created_at": now(), **change.set})


def replaced_contact(given: Mapping[str, Any], country_code: str = "") -> Change:
    """A whole contact, also in the shape in which apps get contacts: `extras-x` beside `extra`.
    Numbers as in `new_contact`. Raises Refused.
    """
    flat = {
        name: _scalar(name, value)
        for name, value in given.items()
        if name.startswith((EXTRAS, SUBSCRIPTIONS))
    }
    return _whole(given, country_code, flat)


def _whole(
    given: Mapping[str, Any], country_code: str, flat: Mapping[str, Any] | None = None
) -> Change:
    fields, _ = _plain(given, country_code)
    fields.setdefault("msisdn", UNKNOWN)
    for name, prefix in MAPPINGS.items():
        fields |= _mapping(name, prefix, given.get(name), _scalar) or {}
    return Change(
        set=dict(flat or {}) | fields, groups=_groups(given.get("groups")) or (), wipe=True
    )


def changed_contact(given: Mapping[str, Any], country_code: str = "") -> Change:
    """Some fields of a contact: null clears a field, groups are added, extra and subscription
    replace the old ones. Numbers as in `new_contact`. Raises Refused.
    """
    fields, cleared = _plain(given, country_code)
    if "msisdn" in cleared:
        raise Refused("'msisdn' may not be null")
    prefixes = []
    for name, prefix in MAPPINGS.items():
        entries = _mapping(name, prefix, given.get(name), _string)
        if entries is not None or name in given:
            prefixes.append(prefix)
            fields |= entries or {}
    return Change(
        set=fields,
        drop=tuple(name for name in cleared if name != "created_at"),
        drop_prefix=tuple(prefixes),
        groups=_groups(given.get("groups")),
        add_groups=True,
    )


def added_entries(prefix: str, given: Mapping[str, Any]) -> Change:
    """Extras, or subscriptions, to add to those of the contact. Raises Refused."""
    if not all(isinstance(value, str) for value in given.values()):
        raise Refused("All field values need to be strings")
    return Change(set={prefix + name: value for name, value in given.items()})


def _plain(given: Mapping[str, Any], country_code: str) -> tuple[dict[str, Any], list[str]]:
    """The text and date fields that are given, and the names of those that are null."""
    fields: dict[str, Any] = {}
    cleared = []
    for name in (*LENGTHS, "dob", "created_at"):
        value = given.get(name)
        if value is not None:
            fields[name] = (
                _text(name, value, LENGTHS[name]) if name in LENGTHS else date_field(name, value)
            )
        elif name in given:
            cleared.append(name)
    if "msisdn" in fields:
        fields["msisdn"] = international(fields["msisdn"], country_code)
    return fields, cleared


def _text(name: str, value: Any, most: int | None) -> str:
    if not isinstance(value, str):
        raise Refused(f"'{name}' needs to be a string or null, not {shown(value)}")
    if most is not None and len(value) > most:
        raise Refused(f"'{name}' is too long: {len(value)} characters, maximum {most}")
    return value


def date_field(name: str, value: Any) -> str:
    """A date as it is stored. Raises Refused."""
    text = value.strip() if isinstance(value, str) else ""
    short = _YEAR_OR_MONTH.fullmatch(text)
    try:
        if short is not None:
            # a Vumi date has no zone
            return vumi_date(datetime(int(short[1]), int(short[2] or 1), 1))  # noqa: DTZ001
        return vumi_date(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise Refused(
            f"'{name}' needs to be an ISO 8601 date such as '2013-04-24T14:01:41Z' or null, not "
            f"{shown(value)}"
        ) from None


def _groups(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise Refused(
            f"'groups' needs to be a list of strings (keys of groups), not {shown(value)}"
        )
    return tuple(value)


def _mapping(
    name: str, prefix: str, value: Any, check: Callable[[str, Any], Any]
) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Refused(f"'{name}' needs to be an object, not {shown(value)}")
    return {prefix + key: check(f"{name}.{key}", item) for key, item in value.items()}


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"'{name}' needs to be a string, not {shown(value)}")
    return value


def _scalar(name: str, value: Any) -> Any:
    if isinstance(value, dict | list):
        raise Refused(
            f"'{name}' needs to be a string, a number, true, false or null, not {shown(value)}"
        )
    return value


_KNOWN = {*LENGTHS, *MAPPINGS, "dob", "created_at", "groups", "key", "user_account", "$VERSION"}


def imported_contact(given: Any, country_code: str = "") -> tuple[str | None, Change]:
    """A contact from a file, with its key if it has one. Unlike in commands, unknown fields are
    errors. Numbers as in `new_contact`. Raises Refused.
    """
    if not isinstance(given, dict):
        raise Refused(f"expected an object, not {shown(given)}")
    unknown = [
        name
        for name in given
        if name not in _KNOWN and not name.startswith((EXTRAS, SUBSCRIPTIONS))
    ]
    if unknown:
        raise Refused(f"there is no field {shown(unknown[0])}; a contact's own go into 'extra'")
    key = given.get("key")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= KEY_MAX):
        raise Refused(f"'key' needs to be a string of 1 to {KEY_MAX} characters, not {shown(key)}")
    return key, replaced_contact(given, country_code)
