"""Spellings of one person's address, and the msisdn of a contact that was given none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.addresses import identity, international, spellings, stored_address
from resources.contact_fields import (
    changed_contact,
    imported_contact,
    new_contact,
    replaced_contact,
)
from resources.contacts import ContactsResource, ContactsSettings, Get, Update, Whole
from resources.contract import Caller, Refused
from resources.stores.contacts import Contacts
from resources.stores.redis import Redis


@pytest.mark.parametrize(
    ("written", "code", "stored"),
    [
        ("27821000009", "", "+27821000009"),
        ("+27821000009", "", "+27821000009"),
        ("0821000009", "", "0821000009"),
        ("0027821000009", "", "0027821000009"),
        ("0821000009", "27", "+27821000009"),
        ("0027821000009", "27", "+27821000009"),
        ("00447700900123", "27", "+447700900123"),
        ("27821000009", "27", "+27821000009"),
        ("+0821000009", "27", "+0821000009"),
        ("0712345678", "254", "+254712345678"),
        ("8181", "27", "8181"),
        ("0800", "27", "0800"),
        ("\u0660" * 10, "27", "\u0660" * 10),
        ("082 100 0009", "27", "082 100 0009"),
        ("unknown", "27", "unknown"),
        ("", "27", ""),
    ],
)
def test_numbers_as_they_are_stored(written: str, code: str, stored: str) -> None:
    """A plus is for international numbers alone; a national one becomes that by its country."""
    assert stored_address("msisdn", written, code) == stored
    assert stored_address("twitter_handle", written, code) == written


@given(st.text(alphabet="0123456789+ ", max_size=14), st.sampled_from(["", "27", "1", "254"]))
def test_all_spellings_of_a_number_are_one(number: str, code: str) -> None:
    """Whichever one begins with, and an international number is one already."""
    same = identity("msisdn", number, code)
    found = spellings("msisdn", number, code)
    assert found[0] == number
    assert len(set(found)) == len(found)
    if not same.startswith(("0", "+")):
        assert {identity("msisdn", spelling, code) for spelling in found} == {same}
    once = international(number, code)
    assert international(once, code) == once


def test_spellings_of_a_number_at_home_and_abroad() -> None:
    """Those in which people write it; a Jabber address has none but itself without its device."""
    home = ["0821000009", "27821000009", "+27821000009", "0027821000009"]
    assert [sorted(spellings("msisdn", one, "27")) for one in home] == [sorted(home)] * 4
    assert spellings("msisdn", "0821000009") == ["0821000009", "+0821000009"]
    assert spellings("msisdn", "+44770090012", "27") == [
        "+44770090012", "44770090012", "0044770090012"
    ]  # fmt: skip
    assert spellings("gtalk_id", "a@b/c") == ["a@b/c", "a@b"]
    assert spellings("twitter_handle", "+27", "27") == ["+27"]


@pytest.mark.parametrize("number", [{}, {"msisdn": None}])
def test_a_whole_contact_has_an_msisdn(number: dict[str, Any]) -> None:
    """Whoever writes it: the toolkits fail on null."""
    for change in (
        new_contact({"name": "x", **number}),
        replaced_contact(number),
        imported_contact(number)[1],
    ):
        assert change.set["msisdn"] == "unknown"
    assert "msisdn" not in changed_contact({"name": "x"}).set


def caller(code: str) -> Caller:
    async def log(level: int, message: str) -> None: ...

    settings = {ContactsSettings: ContactsSettings("sms", 100, code)}
    return Caller("r1", "acct", "app", "phone", None, settings, log)


async def test_national_numbers_are_found_and_stored_by_their_country(redis: Redis) -> None:
    """By every command, and never as a second contact; what was stored before the account had a
    country code is found as it is.
    """
    await redis.execute("FLUSHALL")
    # nothing is searched
    resource = ContactsResource(Contacts(redis), None)  # type: ignore[arg-type]
    plain, home = caller(""), caller("27")
    old = (await resource.new(plain, Whole({"msisdn": "0821111111"}))).contact
    assert old["msisdn"] == "0821111111"
    assert (await resource.get_or_create(plain, Get("0821111111"))).contact == old
    assert (await resource.get_or_create(home, Get("0821111111"))).contact == old
    assert (await resource.get(home, Get("0821111111"))).contact == old

    made = await resource.get_or_create(home, Get("0822222222"))
    assert (made.created, made.contact["msisdn"]) == (True, "+27822222222")
    for spelling in ("0822222222", "27822222222", "+27822222222", "0027822222222"):
        assert (await resource.get(home, Get(spelling))).contact == made.contact
        found = await resource.get_or_create(home, Get(spelling))
        assert (found.created, found.contact) == (False, made.contact)
    with pytest.raises(Refused, match=r"address '0822222222' for delivery class 'sms' not found"):
        await resource.get(plain, Get("0822222222"))

    key = made.contact["key"]
    changed = await resource.update(home, Update(key, {"msisdn": "0823333333"}))
    assert changed.contact["msisdn"] == "+27823333333"
    saved = await resource.save(home, Whole({"key": key, "msisdn": "0824444444"}))
    assert saved.contact["msisdn"] == "+27824444444"
    new = await resource.new(home, Whole({"msisdn": "0825555555"}))
    assert new.contact["msisdn"] == "+27825555555"
