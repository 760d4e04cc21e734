"""contacts: the people that an account's apps know."""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import frozen

from .addresses import international, stored_address
from .contact_fields import (
    UNKNOWN,
    added_entries,
    address_field,
    changed_contact,
    new_contact,
    replaced_contact,
)  # fmt: skip
from .contract import Caller, Refused, Resource, command
from .messages import new_id, now, shown
from .parameters import Json, needed_object, needed_string, parameter
from .stores.contacts import (
    EXTRAS,
    SUBSCRIPTIONS,
    Change,
    Contact,
    ContactLimit,
    Contacts,
)
from .stores.search import ContactSearch, SearchError


@frozen
class ContactsSettings:
    """What holds for an app's contacts.

    Attributes:
        delivery_class: Of look-ups that name none.
        contacts_max: How many contacts the account may have.
        country_code: Of the account's national numbers; empty if they stay as they are.
    """

    delivery_class: str
    contacts_max: int
    country_code: str


@frozen
class Get:
    """contacts.get, contacts.get_or_create."""

    addr: str = needed_string("addr")
    delivery_class: Json = None


@frozen
class ByKey:
    """contacts.get_by_key."""

    key: str = needed_string("key")


@frozen
class Whole:
    """contacts.new, contacts.save."""

    contact: dict[str, Any] = needed_object("contact")


@frozen
class Search:
    """contacts.search."""

    query: str = needed_string("query")
    max_keys: int = parameter(
        -1,
        wrong=lambda value: (
            f"'max_keys' is invalid: expected an integer of 0 or more, not {shown(value)}"
        ),
        check=lambda value: value >= 0,
    )


@frozen
class Update:
    """contacts.update, contacts.update_extras, contacts.update_subscriptions."""

    key: str = needed_string("key")
    fields: dict[str, Any] = needed_object("fields")


@frozen
class One:
    """A contact."""

    contact: Contact


@frozen
class Found:
    """A contact, and whether it is new."""

    contact: Contact
    created: bool


@frozen
class Keys:
    """Keys of contacts: the JSON array of the search, since there may be many."""

    keys: msgspec.Raw


def not_found(key: str) -> Refused:
    """Make the refusal for a contact that does not exist."""
    return Refused(f"Contact with key {shown(key)} not found.")


@frozen
class ContactsResource(Resource):
    """The contacts commands."""

    contacts: Contacts
    search_of: ContactSearch

    @command("contacts.get")
    async def get(self, caller: Caller, request: Get) -> One:
        """The contact with an address; of several, the one that was created last."""
        delivery_class = _delivery_class(caller, request)
        found = await self._find(caller, address_field(delivery_class), request.addr)
        if found is None:
            where = f"address {shown(request.addr)} for delivery class {shown(delivery_class)}"
            raise Refused(f"Contact with {where} not found.")
        return One(found)

    @command("contacts.get_or_create")
    async def get_or_create(self, caller: Caller, request: Get) -> Found:
        """The contact with an address, or a new one that has it."""
        field = address_field(_delivery_class(caller, request))
        settings = caller.setting(ContactsSettings)
        address = stored_address(field, request.addr, settings.country_code)
        new = new_contact({"msisdn": UNKNOWN, "created_at": now()} | {field: address})
        most = settings.contacts_max
        if len(_looked_up(field, request.addr, settings.country_code)) > 1:
            found = await self._find(caller, field, request.addr)
            if found is not None:
                return Found(found, created=False)
        try:
            return Found(
                *await self.contacts.find_or_create(
                    caller.account, field, address, new_id(), new, most
                )
            )
        except ContactLimit as limit:
            raise Refused(str(limit)) from limit

    @command("contacts.get_by_key")
    async def get_by_key(self, caller: Caller, request: ByKey) -> One:
        """The contact with a key."""
        found = await self.contacts.get(caller.account, request.key)
        if found is None:
            raise not_found(request.key)
        return One(found)

    @command("contacts.new")
    async def new(self, caller: Caller, request: Whole) -> One:
        """Make a contact."""
        settings = caller.setting(ContactsSettings)
        new = new_contact(request.contact, settings.country_code)
        try:
            return One(
                await self.contacts.create(caller.account, new_id(), new, settings.contacts_max)
            )
        except ContactLimit as limit:
            raise Refused(str(limit)) from limit

    @command("contacts.save")
    async def save(self, caller: Caller, request: Whole) -> One:
        """Replace a whole contact; fields not given become null, but created_at stays, and the
        msisdn becomes "unknown".
        """
        key = request.contact.get("key")
        if not isinstance(key, str):
            raise Refused(f"'contact.key' needs to be a string, not {shown(key)}")
        change = replaced_contact(request.contact, caller.setting(ContactsSettings).country_code)
        return await self._change(caller, key, change)

    @command("contacts.update")
    async def update(self, caller: Caller, request: Update) -> One:
        """Change some fields of a contact."""
        change = changed_contact(request.fields, caller.setting(ContactsSettings).country_code)
        return await self._change(caller, request.key, change)

    @command("contacts.update_extras")
    async def update_extras(self, caller: Caller, request: Update) -> One:
        """Set some extras of a contact."""
        return await self._change(caller, request.key, added_entries(EXTRAS, request.fields))

    @command("contacts.update_subscriptions")
    async def update_subscriptions(self, caller: Caller, request: Update) -> One:
        """Set some subscriptions of a contact."""
        return await self._change(caller, request.key, added_entries(SUBSCRIPTIONS, request.fields))

    @command("contacts.search")
    async def search(self, caller: Caller, request: Search) -> Keys:
        """The keys of the contacts that a query finds."""
        limit = None if request.max_keys < 0 else request.max_keys
        try:
            return Keys(await self.search_of.keys_json(caller.account, request.query, limit))
        except SearchError as error:
            raise Refused(str(error)) from error

    async def _find(self, caller: Caller, field: str, address: str) -> Contact | None:
        code = caller.setting(ContactsSettings).country_code
        for spelling in _looked_up(field, address, code):
            found = await self.contacts.find(caller.account, field, spelling)
            if found is not None:
                return found
        return None

    async def _change(self, caller: Caller, key: str, change: Change) -> One:
        try:
            changed = await self.contacts.change(caller.account, key, change)
        except ContactLimit as limit:
            raise Refused(str(limit)) from limit
        if changed is None:
            raise not_found(key)
        return One(changed)


def _looked_up(field: str, address: str, country_code: str) -> list[str]:
    """The spellings under which a contact is looked for: of a national number the international
    one, then the number as it is, since it may have been stored before the account had a country
    code. The store itself takes no notice of a plus, nor of a Jabber device.
    """
    if field != "msisdn":
        return [address]
    return list(dict.fromkeys((international(address, country_code), address)))


def _delivery_class(caller: Caller, request: Get) -> str:
    given = request.delivery_class
    if given is None:
        given = caller.setting(ContactsSettings).delivery_class or None
    if not isinstance(given, str):
        raise Refused(f"'delivery_class' needs to be a string, not {shown(given)}")
    return given
