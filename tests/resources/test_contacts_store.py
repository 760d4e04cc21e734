"""Contacts in a real store: what moves together, what is refused whole, and what concurrent
runs may never break.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from resources.contact_fields import (
    added_entries,
    changed_contact,
    new_contact,
    replaced_contact,
)
from resources.stores.contacts import (
    EXTRAS,
    SUBSCRIPTIONS,
    Change,
    Contact,
    ContactLimit,
    Contacts,
)
from resources.stores.groups import Groups
from resources.stores.keys import account_key
from resources.stores.links import link_to
from resources.stores.redis import Redis, open_redis
from resources.stores.search.changes import Changes

from ..examples import examples

MOST = 1000


async def create(contacts: Contacts, key: str, account: str = "acct", **fields: Any) -> Contact:
    return await contacts.create(
        account, key, new_contact({"created_at": "2014-01-01", **fields}), MOST
    )


async def test_a_contact_has_its_sixteen_fields_and_its_own(redis: Redis) -> None:
    """All of them always, extras and subscriptions beside them; read back as written."""
    contacts = Contacts(redis)
    made = await create(
        contacts,
        "k",
        name="Zoë",
        extra={"a": "1", "n": 5, "no": None},
        subscription={"s": "on"},
        groups=["g", "g", "h"],
    )
    assert made == {
        "key": "k", "user_account": "acct", "$VERSION": 2,
        "created_at": "2014-01-01 00:00:00.000000", "dob": None,
        "name": "Zoë", "surname": None, "msisdn": "unknown", "twitter_handle": None,
        "facebook_id": None, "bbm_pin": None,
        "gtalk_id": None, "mxit_id": None, "wechat_id": None, "email_address": None,
        "groups": ["g", "h"],
        "extras-a": "1", "extras-n": 5, "extras-no": None, "subscription-s": "on",
    }  # fmt: skip
    assert await contacts.get("acct", "k") == made
    assert await contacts.get("acct", "nothing") is None


@pytest.mark.parametrize(
    "key", ["seq", "changes", "changed", "}", "{x}", "", "a:b", "\0", "☃", "x" * 10_000]
)
async def test_any_text_can_be_a_key(redis: Redis, key: str) -> None:
    """None is mistaken for something else that is stored."""
    contacts = Contacts(redis)
    await create(contacts, "other", groups=["g"])
    assert await contacts.get("acct", key) is None
    await create(contacts, key, name="odd")
    assert (await contacts.get("acct", key) or {})["name"] == "odd"
    assert await contacts.count("acct") == 2


@pytest.mark.parametrize(
    ("name", "stored", "asked"),
    [
        ("msisdn", "+27831234567", "27831234567"),
        ("msisdn", "27831234567", "+27831234567"),
        ("gtalk_id", "me@example.org/phone", "me@example.org/laptop"),
        ("twitter_handle", "zoë", "zoë"),
        ("wechat_id", "a:b|c", "a:b|c"),
    ],
)
async def test_addresses_are_found_in_the_forms_they_have(
    redis: Redis, name: str, stored: str, asked: str
) -> None:
    """With and without plus, on whatever device; of several contacts the one created last."""
    contacts = Contacts(redis)
    await create(contacts, "old", created_at="2013-05-05", **{name: stored})
    await create(contacts, "new", created_at="2014-05-05", **{name: stored})
    await create(contacts, "older", created_at="0999-05-05", **{name: stored})
    assert (await contacts.find("acct", name, asked) or {})["key"] == "new"
    await contacts.change("acct", "new", Change(drop=(name,)))
    assert (await contacts.find("acct", name, asked) or {})["key"] == "old"
    await contacts.change("acct", "older", Change(set={"created_at": "2015-01-01 00:00:00.000000"}))
    assert (await contacts.find("acct", name, asked) or {})["key"] == "older"
    assert await contacts.find("other", name, asked) is None


async def test_a_write_beyond_a_limit_changes_nothing(redis: Redis) -> None:
    """Contacts of an account, fields and bytes of a contact."""
    contacts = Contacts(redis)
    await contacts.create("acct", "a", new_contact({"name": "a", "msisdn": "+1"}), 1)
    with pytest.raises(ContactLimit, match="an account may have 1 contacts"):
        await contacts.create("acct", "b", new_contact({}), 1)
    with pytest.raises(ContactLimit, match="may have 1 contacts"):
        await contacts.find_or_create("acct", "msisdn", "+2", "b", new_contact({}), 1)
    before = await contacts.get("acct", "a")
    with pytest.raises(ContactLimit, match="1000 fields"):
        await contacts.change(
            "acct", "a", added_entries(EXTRAS, {str(n): "x" for n in range(1000)})
        )
    with pytest.raises(ContactLimit, match="262144 bytes"):
        await contacts.change(
            "acct",
            "a",
            changed_contact({"msisdn": "+9", "groups": ["g"], "extra": {"x": "x" * 300_000}}),
        )
    assert await contacts.get("acct", "a") == before
    assert await contacts.find("acct", "msisdn", "+9") is None
    assert await contacts.members("acct", "g") == []
    assert await contacts.get("acct", "b") is None


async def test_get_or_create_never_makes_two(redis: Redis, valkey: str) -> None:
    """However many ask at once, on several connections."""
    async with open_redis(valkey) as other, trio.open_nursery() as nursery:
        made: list[tuple[str, bool]] = []
        groups: list[tuple[str, bool]] = []

        async def ask(client: Redis, key: str) -> None:
            new = new_contact({"msisdn": "+27831234567", "created_at": "2014-01-01"})
            contact, created = await Contacts(client).find_or_create(
                "acct", "msisdn", "+27831234567", key, new, MOST
            )
            made.append((contact["key"], created))
            group, created = await Groups(client).find_or_create(
                "acct", "name", key, "2014-01-01", MOST
            )
            groups.append((group["key"], created))

        for n in range(20):
            nursery.start_soon(ask, redis, f"a{n}")
            nursery.start_soon(ask, other, f"b{n}")
    for answers in (made, groups):
        assert len({key for key, _ in answers}) == 1
        assert sum(created for _, created in answers) == 1


async def test_updates_at_once_lose_nothing(redis: Redis, valkey: str) -> None:
    """Each sets an extra of its own and adds a group of its own."""
    contacts = Contacts(redis)
    await create(contacts, "k")
    async with open_redis(valkey) as other, trio.open_nursery() as nursery:
        for n in range(30):
            client = Contacts(other if n % 2 else redis)
            nursery.start_soon(client.change, "acct", "k", added_entries(EXTRAS, {f"e{n}": "x"}))
            nursery.start_soon(client.change, "acct", "k", changed_contact({"groups": [f"g{n}"]}))
    contact = await contacts.get("acct", "k")
    assert contact is not None
    assert sorted(contact["groups"]) == sorted(f"g{n}" for n in range(30))
    assert sum(name.startswith(EXTRAS) for name in contact) == 30


async def test_pages_hold_every_contact_once_in_the_order_made(redis: Redis) -> None:
    """Also where a contact changes between two pages."""
    contacts = Contacts(redis)
    for n in range(7):
        await create(contacts, f"k{n}")
    page = await contacts.page("acct", 0, 3)
    await contacts.change("acct", "k0", Change(set={"name": "changed"}))
    found = [contact["key"] for contact in page.contacts]
    while page.cursor is not None:
        page = await contacts.page("acct", page.cursor, 3)
        found += [contact["key"] for contact in page.contacts]
    assert found == [f"k{n}" for n in range(7)]


@pytest.mark.parametrize("name", ["name", "groups", "extras-x"])
async def test_one_that_cannot_be_read_is_left_out_of_many(
    name: str, redis: Redis, valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program wrote into it; the log says which one it is, and the others come, also to
    the search process.
    """
    contacts = Contacts(redis)
    for key in ("before", "broken", "after"):
        await create(contacts, key)
    await redis.execute("HSET", account_key("acct", "contact", "broken"), name, b"\xff")
    page = await contacts.page("acct", 0, 3)
    assert [one["key"] for one in page.contacts] == ["before", "after"]
    assert page.cursor is not None
    assert "contact 'broken' of account acct is left out" in caplog.text
    changes = Changes(lambda: link_to(valkey))
    assert [one.key for one in changes.after("acct", 0, 3).changed] == ["before", "after"]
    assert [one["key"] for one in changes.contacts("acct", ["broken", "after"])] == ["after"]
    changes._links.link.close()


TEXT = st.sampled_from(["a", "b", "", "Zoë", "+27831234567", "27831234567", "x/y", "x/z"])
ADDRESS = st.sampled_from(["+27831234567", "27831234567", "x/y", "x/z"])
KEY = st.sampled_from(["k1", "k2", "k3"])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXT | st.none(),
        "msisdn": ADDRESS,
        "gtalk_id": ADDRESS | st.none(),
        "created_at": st.sampled_from(["2013", "2014-02", "2015-03-04T05:06:07+02:00"]),
        "groups": st.lists(st.sampled_from(["g1", "g2", "g3"]), max_size=4),
        "extra": st.dictionaries(st.sampled_from(["e1", "e2"]), TEXT, max_size=2),
        "subscription": st.dictionaries(st.sampled_from(["s1"]), TEXT, max_size=1),
    },
)
STEP = st.one_of(
    st.tuples(st.just("new"), KEY, FIELDS),
    st.tuples(st.just("save"), KEY, FIELDS),
    st.tuples(st.just("update"), KEY, FIELDS),
    st.tuples(
        st.just("extras"),
        KEY,
        st.dictionaries(st.sampled_from(["e1", "e2", "e3"]), TEXT, max_size=2),
    ),
    st.tuples(st.just("find"), st.sampled_from(["msisdn", "gtalk_id"]), ADDRESS),
    st.tuples(st.just("find_or_create"), KEY, ADDRESS),
)


@define
class Model:
    """The same in plain Python, one dict a contact."""

    contacts: dict[str, Contact] = field(factory=dict)

    def write(self, key: str, given: dict[str, Any], how: str) -> Contact | None:
        old = self.contacts.get(key)
        if old is None and how != "new":
            return None
        if how == "new":
            change = new_contact({"created_at": "2010-01-01", **given})
        elif how == "save":
            change = replaced_contact(given)
        elif how == "update":
            change = changed_contact(given)
        else:
            change = added_entries(EXTRAS, given)
        kept = (
            {}
            if how in ("new", "save")
            else {k: v for k, v in (old or {}).items() if k != "groups"}
        )
        if how == "update":
            for name, prefix in (("extra", EXTRAS), ("subscription", SUBSCRIPTIONS)):
                if name in given:
                    kept = {k: v for k, v in kept.items() if not k.startswith(prefix)}
        if how == "save" and old is not None:
            kept["created_at"] = old["created_at"]
        contact = blank(key) | kept | dict.fromkeys(change.drop) | change.set
        before = (old or {}).get("groups", []) if how not in ("new", "save") else []
        contact["groups"] = list(dict.fromkeys([*before, *(change.groups or ())]))
        self.contacts[key] = contact
        return contact

    def find(self, name: str, address: str) -> str | None:
        def normal(text: str) -> str:
            return text.removeprefix("+") if name == "msisdn" else text.partition("/")[0]

        same = [
            c
            for c in self.contacts.values()
            if c[name] is not None and normal(c[name]) == normal(address)
        ]
        return max(same, key=lambda c: (c["created_at"], c["key"]))["key"] if same else None


def blank(key: str) -> Contact:
    empty = dict.fromkeys(
        (
            "name",
            "surname",
            "msisdn",
            "twitter_handle",
            "facebook_id",
            "bbm_pin",
            "gtalk_id",
            "mxit_id",
            "wechat_id",
            "email_address",
            "dob",
        )
    )
    return {
        "key": key,
        "user_account": "acct",
        "$VERSION": 2,
        "created_at": None,
        "groups": [],
        **empty,
    }


@examples(40, 600)
@given(runs=st.lists(st.lists(STEP, min_size=10, max_size=40), min_size=1, max_size=3))
def test_random_commands_do_what_a_plain_model_does(
    valkey: str, runs: list[list[tuple[str, str, Any]]]
) -> None:
    """Sequences of several runs at once, each step compared in the order in which the store was
    asked; then all that is derived.
    """

    async def play() -> None:
        async with open_redis(valkey) as redis:
            await redis.execute("FLUSHALL")
            contacts, model = Contacts(redis), Model()
            async with trio.open_nursery() as nursery:
                for steps in runs:
                    nursery.start_soon(play_run, contacts, model, steps)
            await check_derived(redis, contacts, model)

    trio.run(play)


async def play_run(contacts: Contacts, model: Model, steps: list[tuple[str, str, Any]]) -> None:
    for step, key, given_ in steps:
        # The store is asked in this order, and the model at the same moment: no checkpoint lies
        # between.
        match step:
            case "find":
                expected = model.find(key, given_)
                found = await contacts.find("acct", key, given_)
                assert (found or {}).get("key") == expected
            case "find_or_create":
                known = model.find("msisdn", given_)
                fields = {"msisdn": given_, "created_at": "2012-01-01"}
                expected_contact = (
                    dict(model.contacts[known])
                    if known
                    else dict(model.write(key, fields, "new") or {})
                )
                contact, created = await contacts.find_or_create(
                    "acct", "msisdn", given_, key, new_contact(fields), MOST
                )
                assert (contact, created) == (expected_contact, known is None)
            case "new":
                wanted = dict(model.write(key, given_, "new") or {})
                change = new_contact({"created_at": "2010-01-01", **given_})
                assert await contacts.create("acct", key, change, MOST) == wanted
            case _:
                make = {
                    "save": replaced_contact,
                    "update": changed_contact,
                    "extras": lambda g: added_entries(EXTRAS, g),
                }
                result = model.write(key, given_, step)
                wanted_ = None if result is None else dict(result)
                assert await contacts.change("acct", key, make[step](given_)) == wanted_


async def check_derived(redis: Redis, contacts: Contacts, model: Model) -> None:
    assert {c["key"]: c for c in (await contacts.page("acct", 0, 100)).contacts} == model.contacts
    for group in ("g1", "g2", "g3"):
        members = sorted(
            key for key, contact in model.contacts.items() if group in contact["groups"]
        )
        assert await contacts.members("acct", group) == members
        assert await contacts.count_members("acct", group) == len(members)
    # No look-up is left of an address that no contact has any more.
    keys = [key.decode() for key in await redis.execute("KEYS", "jsbox:{acct}:addr:*")]
    entries = sorted(
        [entry.decode() for key in keys for entry in await redis.execute("ZRANGE", key, 0, -1)]
    )
    assert entries == sorted(
        f"{contact['created_at']}|{key}"
        for key, contact in model.contacts.items()
        for name in ("msisdn", "twitter_handle", "gtalk_id", "mxit_id", "wechat_id")
        if contact[name] is not None
    )
    changed = await redis.execute("ZCARD", "jsbox:{acct}:contacts:changed")
    assert changed == len(model.contacts)


async def test_a_change_number_follows_every_write(redis: Redis) -> None:
    """It rises by one with each, and names the contact's latest."""
    contacts = Contacts(redis)
    await create(contacts, "a")
    await create(contacts, "b")
    await contacts.change("acct", "a", Change(set={"name": "x"}))
    changed = await redis.execute("ZRANGE", "jsbox:{acct}:contacts:changed", 0, -1, "WITHSCORES")
    assert [item.decode() for item in changed] == ["b", "2", "a", "3"]
    assert json.loads(await redis.execute("GET", "jsbox:{acct}:contacts:changes")) == 3
