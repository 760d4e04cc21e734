"""When two spellings of an address are one person's.

A phone number is written with and without its plus and, at home, with a 0 in place of the country
code. Which country is home only the operator knows: `country_code` of the account.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[0-9]{8,}")  # shorter ones are services' own
_ABROAD, _HOME = "00", "0"  # what stands before a number in another country, and in the same one


def international(number: str, country_code: str) -> str:
    """A national number as `+27821234567`; any other text, or without a country code, as it is.

    Args:
        number: As an app or an operator wrote it.
        country_code: The account's, such as "27"; empty if it has none.
    """
    if not country_code or not number.startswith(_HOME) or not _NUMBER.fullmatch(number):
        return number
    if number.startswith(_ABROAD):
        return f"+{number.removeprefix(_ABROAD)}"
    return f"+{country_code}{number.removeprefix(_HOME)}"


def stored_address(field: str, address: str, country_code: str = "") -> str:
    """An address as a new contact has it: a full number with its plus, a Jabber address without its
    device. A national number stays as it is if the account has no country code.
    """
    if field == "msisdn":
        number = international(address, country_code)
        is_full = _NUMBER.fullmatch(number) is not None and not number.startswith(_HOME)
        return f"+{number}" if is_full else number
    return address.partition("/")[0] if field == "gtalk_id" else address


def identity(field: str, address: str, country_code: str = "") -> str:
    """A text that is the same for all spellings of an address, as contacts are looked up by."""
    return stored_address(field, address, country_code).removeprefix(
        "+" if field == "msisdn" else ""
    )


def spellings(field: str, address: str, country_code: str = "") -> list[str]:
    """All spellings of an address, the given one first."""
    same = identity(field, address, country_code)
    found = [address, same]
    if field == "msisdn":
        found.append(f"+{same}")
        if country_code and _NUMBER.fullmatch(same):
            found.append(_ABROAD + same)
            if same.startswith(country_code):
                found.append(_HOME + same.removeprefix(country_code))
    return list(dict.fromkeys(found))
