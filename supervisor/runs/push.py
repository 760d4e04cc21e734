"""Push triggers: messages that no user sent, which make an app begin a conversation with an
address, or with every contact of a group.

Addresses that opted out are skipped. Apps choose the type of an address freely when they record an
opt-out, so each delivery class has several types under which an opt-out is looked for; and each
spelling of an address.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from uuid import UUID, uuid5

import trio
from attrs import define, frozen

from resources.addresses import identity, spellings
from resources.contact_fields import UNKNOWN, address_field
from resources.contract import Refused
from resources.fence import note
from resources.messages import push_trigger
from resources.stores.contacts import Contacts
from resources.stores.groups import Groups
from resources.stores.journal import Entry, Journal
from resources.stores.optouts import OptOuts
from resources.stores.redis import StoreError
from resources.stores.search import ContactSearch, SearchError

from ..config.model import App
from .dispatcher import Dispatcher

BATCH = 100  # addresses put in line at once
PAGE = 500  # contacts read at once
SMART = 10**15  # the cursors of an audience from here on are of the group's query
PAUSE = 0.05  # seconds until a full queue is looked at again
_NAMES = UUID("0e3f3c04-6c0f-4f0b-9a55-1d1f5b0f6a52")

OPTOUT_TYPES = {
    "sms": ("msisdn",), "ussd": ("msisdn",), "voice": ("msisdn",), "gtalk": ("gtalk", "gtalk_id"),
    "twitter": ("twitter", "twitter_handle", "msisdn"), "mxit": ("mxit", "mxit_id", "msisdn"),
    "wechat": ("wechat", "wechat_id", "msisdn"),
}  # fmt: skip
"""Delivery class to address types; the old system looked under msisdn, so it is among them."""


@frozen
class Push:
    """Which app pushes, and to which kind of address.

    Attributes:
        country_code: Of the account's national numbers; empty if it has none.
        id: Names this push: within a day (journal.REMEMBERED) no address gets it twice, so that one
            that was interrupted can be tried again. Empty: it is a push of its own.
        is_dry: Only count what would be done.
    """

    app: App
    delivery_class: str
    country_code: str
    id: str = ""
    is_dry: bool = False

    def identity(self, address: str) -> str:
        """A text that is the same for all spellings of an address. Raises Refused."""
        return identity(address_field(self.delivery_class), address, self.country_code)

    def trigger(self, address: str) -> dict[str, object]:
        """The message that makes the app begin a conversation with an address."""
        name = f"{self.app.name}/{self.id}/{self.identity(address)}"
        message_id = uuid5(_NAMES, name).hex if self.id else ""
        return push_trigger(address, self.delivery_class, message_id)

    def optout_names(self, address: str) -> list[tuple[str, str]]:
        """The types and values under which an opt-out of an address may be recorded. Raises
        Refused.
        """
        values = spellings(address_field(self.delivery_class), address, self.country_code)
        return [(kind, value) for kind in OPTOUT_TYPES[self.delivery_class] for value in values]


class NoSuchGroup(Exception):
    """The account has no group with that key."""


class AppGone(Exception):
    """The app has left the config."""


@define
class Pushed:
    """What became of a push.

    Attributes:
        queued: Addresses put in line.
        opted_out: Addresses skipped because they opted out.
        no_address: Contacts without an address.
        already: Addresses skipped because this push had put them in line before.
    """

    queued: int = 0
    opted_out: int = 0
    no_address: int = 0
    already: int = 0


@frozen
class Audience:
    """A page of the addresses that a push to a group goes to.

    Attributes:
        addresses: Each with a text that is the same for all of its spellings. The same person may
            be on several pages.
        no_address: Contacts of the page without an address.
        cursor: Where the next page begins; None after the last one.
    """

    addresses: list[tuple[str, str]]
    no_address: int
    cursor: int | None


class PushStopped(Exception):
    """A push ended early; what it has put in line stays there.

    Attributes:
        pushed: What it had done by then.
        cause: The error: of the store, of the search, an app that left the config, or a bug.
    """

    def __init__(self, pushed: Pushed, cause: Exception) -> None:
        is_expected = isinstance(cause, StoreError | SearchError | AppGone)
        super().__init__(
            f"{cause if is_expected else 'internal error'}; {pushed.queued} were put in line before"
        )
        self.pushed = pushed
        self.cause = cause


@frozen
class Pusher:
    """Pushes for all apps."""

    contacts: Contacts
    groups: Groups
    optouts: OptOuts
    search: ContactSearch
    journal: Journal
    dispatcher: Dispatcher

    async def push(self, push: Push, addresses: Sequence[str]) -> Pushed:
        """Push to each address once, however it is spelt; return when the last one is in line.

        Raises:
            Refused: There is no such delivery class.
            PushStopped: Not all of them are in line.
        """
        result, seen = Pushed(), set[str]()
        with _stopped(result):
            for some in _batched(addresses):
                await self._push_some(push, _distinct(push, some, seen), result)
        return result

    async def push_group(self, push: Push, group: str) -> Pushed:
        """Push to every contact of a group that has an address of the class: each address once,
        however it is spelt.

        Raises:
            NoSuchGroup: The account has no such group.
            Refused: There is no such delivery class.
            PushStopped: Not all of them are in line; one reason is an invalid query of the group.
        """
        result, seen = Pushed(), set[str]()
        name = address_field(push.delivery_class)
        with _stopped(result):
            async with aclosing(self._members(push.app.account, group)) as pages:
                async for keys in pages:
                    found, without = await self._addresses(push.app.account, keys, name)
                    result.no_address += without
                    for some in _batched(found):
                        await self._push_some(push, _distinct(push, some, seen), result)
        return result

    async def audience(self, push: Push, group: str, cursor: int) -> Audience:
        """The page of a group's addresses that begins at `cursor`; 0 is the first.

        Raises:
            NoSuchGroup: The account has no such group.
            Refused: There is no such delivery class.
            SearchError: The group's query cannot be answered.
            StoreError: The store cannot.
        """
        account, name = push.app.account, address_field(push.delivery_class)
        found = await self.groups.get(account, group)
        if found is None:
            raise _no_group(account, group)
        # Pages of the contacts that list the group, then of those that its query finds.
        members = await self.contacts.members(account, group)
        query, after = found["query"], None
        if cursor < SMART:
            keys = members[cursor : cursor + PAGE]
            if cursor + PAGE < len(members):
                after = cursor + PAGE
            elif query is not None:
                after = SMART
        elif query is None:
            keys = []
        else:
            matches, last = await self.search.page(account, query, cursor - SMART, PAGE)
            after = last + SMART if len(matches) == PAGE else None
            listed = frozenset(members)
            keys = [key for key in matches if key not in listed]
        addresses, without = await self._addresses(account, keys, name)
        return Audience([(one, push.identity(one)) for one in addresses], without, after)

    async def _addresses(
        self, account: str, keys: Sequence[str], name: str
    ) -> tuple[list[str], int]:
        """The addresses of contacts in a field, and how many contacts have none."""
        contacts = await self.contacts.many(account, keys)
        found = [one[name] for one in contacts if one[name] not in (None, "", UNKNOWN)]
        return found, len(contacts) - len(found)

    async def _members(self, account: str, key: str) -> AsyncGenerator[Sequence[str], None]:
        """Yield the keys of a group's contacts in pages: contacts that list the group, then those
        that its query finds.
        """
        group = await self.groups.get(account, key)
        if group is None:
            raise _no_group(account, key)
        members = await self.contacts.members(account, key)
        for start in range(0, len(members), PAGE):
            yield members[start : start + PAGE]
        listed, after = frozenset(members), 0
        while group["query"] is not None:
            keys, after = await self.search.page(account, group["query"], after, PAGE)
            yield [key for key in keys if key not in listed]
            if len(keys) < PAGE:
                break

    async def _push_some(self, push: Push, addresses: Sequence[str], result: Pushed) -> None:
        app = push.app
        out = await self.optouts.which(
            app.account, [push.optout_names(address) for address in addresses]
        )
        wanted = [address for address, is_out in zip(addresses, out, strict=True) if not is_out]
        result.opted_out += len(addresses) - len(wanted)
        if push.is_dry:
            result.queued += len(wanted)
            return
        while wanted:
            if not self._is_there(app):
                raise AppGone(f"app {app.name} has left the config")
            fit = next((n for n in (BATCH, 10, 1) if self.dispatcher.has_room(app.name, n)), 0)
            if not fit:
                await trio.sleep(PAUSE)
                continue
            batch, wanted = wanted[:fit], wanted[fit:]
            await self._queue(app, list(map(push.trigger, batch)), result)

    def _is_there(self, app: App) -> bool:
        program = self.dispatcher.programs.get(app.name)
        return program is not None and program.app.account == app.account

    async def _queue(self, app: App, triggers: Sequence[dict[str, object]], result: Pushed) -> None:
        """Put triggers in line, and count them. If the store refuses some, raise its first
        StoreError after the others are in line.
        """
        channel = app.endpoints["default"]
        ours = self.journal.me  # whoever runs them tells us the end: what waits is bounded here
        entries = [
            Entry("message", app.account, app.name, channel, trigger, via=ours)
            for trigger in triggers
        ]
        # No longer than the store's patience: what gets into the journal must be run.
        with trio.CancelScope(shield=True):
            try:
                accepted = await self.journal.attempt(entries)
            except StoreError:
                self.dispatcher.settle_soon()  # some of them may be there
                raise
        refused: StoreError | None = None
        for entry, answer in zip(entries, accepted, strict=True):
            if isinstance(answer, StoreError):
                refused = refused or answer
            elif answer.duplicate:
                result.already += 1
            else:
                result.queued += 1
                self.dispatcher.submit(entry, answer.place)
        if refused is not None:
            raise refused


def _no_group(account: str, key: str) -> NoSuchGroup:
    return NoSuchGroup(f"account {account} has no group {key!r}")


@contextmanager
def _stopped(pushed: Pushed) -> Iterator[None]:
    """Turn an error in a push into PushStopped, which says how far the push got."""
    try:
        yield
    except (NoSuchGroup, Refused):
        raise
    except Exception as error:
        if not isinstance(error, StoreError | SearchError | AppGone):
            note("push", error)
        raise PushStopped(pushed, error) from error


def _batched(addresses: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of at most BATCH addresses."""
    for start in range(0, len(addresses), BATCH):
        yield addresses[start : start + BATCH]


def _distinct(push: Push, addresses: Sequence[str], seen: set[str]) -> list[str]:
    """The addresses that were not seen before, in any spelling, each as it comes first. Adds them
    to those seen.
    """
    found = []
    for address in addresses:
        same = push.identity(address)
        if same not in seen:
            seen.add(same)
            found.append(address)
    return found
