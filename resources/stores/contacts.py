"""Contacts of accounts. Redis is the only truth; every write is one atomic step, which also updates
look-ups, memberships and the change number.

A contact is returned in its JSON shape, as apps know it: 16 fields that are always there, and one
more for each extra (`extras-<name>`) and subscription (`subscription-<name>`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from msgspec import json

from ..fence import fence
from .errors import StoreError, StoreRefused, Unreadable, is_of_one, named, raise_wide
from .keys import account_key, prefix_of
from .resp import Command
from .room import OVERHEAD, Room
from .scripts import Script, script

if TYPE_CHECKING:
    from .redis import Redis

Contact = dict[str, Any]

VERSION = 2
TEXTS = (
    "name", "surname", "msisdn", "twitter_handle", "facebook_id", "bbm_pin", "gtalk_id", "mxit_id",
    "wechat_id", "email_address",
)  # fmt: skip
DATES = ("created_at", "dob")
EXTRAS, SUBSCRIPTIONS = "extras-", "subscription-"
_HIDDEN = "~seq"


COUNTED_AT_ONCE = 500  # groups, of which the members are counted
NUMBER_END = 2**53  # of contacts; the store's scripts count no further
ACCOUNTS_MAX = 10_000  # whose writes are told apart


@define(eq=False)
class Writes:
    """When this server last wrote contacts, by account, so that a search knows whether it has to
    read from the store what has changed.

    A write counts from when its answer came, or will not come: until then nobody was told of it.

    Attributes:
        are_all: No other program writes contacts to this store.
    """

    are_all: bool = False
    _now: int = field(default=0, init=False)
    _latest: dict[str, int] = field(factory=dict, init=False)
    _latest_of_others: int = field(default=0, init=False)

    def note(self, account: str) -> None:
        """Contacts of an account were written, or may have been."""
        if account not in self._latest and len(self._latest) >= ACCOUNTS_MAX:
            self.note_all()
        self._now += 1
        self._latest[account] = self._now

    def note_all(self) -> None:
        """Contacts of any account may have changed: the store has lost some, or is another one."""
        self._latest.clear()
        self._now += 1
        self._latest_of_others = self._now

    def latest(self, account: str) -> int:
        """A number that is greater after each write of the account's contacts."""
        return self._latest.get(account, self._latest_of_others)


class ContactLimit(Exception):
    """The account may have no more contacts, or this one is too large; the text says which."""


@frozen
class Change:
    """What a write does to a contact: all of it, or nothing if a limit is exceeded.

    Attributes:
        set: Plain fields to their texts, and extras-* and subscription-* to any JSON value.
        drop: Fields that become null.
        drop_prefix: Prefixes whose fields are removed before any are set.
        groups: Keys of groups; None leaves them as they are.
        add_groups: Whether to add the groups to those that the contact has.
        wipe: Whether to remove everything first, except created_at.
    """

    set: Mapping[str, Any] = field(factory=dict)
    drop: tuple[str, ...] = ()
    drop_prefix: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    add_groups: bool = False
    wipe: bool = False

    def encode(self) -> bytes:
        """Encode as the scripts expect it."""
        texts = {
            name: json.encode(value).decode() if _is_dynamic(name) else value
            for name, value in self.set.items()
        }
        change: dict[str, Any] = {
            "wipe": self.wipe,
            "set": texts,
            "drop": self.drop,
            "drop_prefix": self.drop_prefix,
        }
        if self.groups is not None:
            change |= {"groups": self.groups, "add_groups": self.add_groups}
        return json.encode(change)


def _is_dynamic(name: str) -> bool:
    return name.startswith((EXTRAS, SUBSCRIPTIONS))


@frozen
class Page:
    """Contacts in the order in which they were made; `cursor` is where the next page begins, None
    at the end.
    """

    contacts: list[Contact]
    cursor: int | None


@frozen
class Contacts:
    """The contacts of all accounts. Every coroutine may raise `redis.StoreError`; those that write,
    `ContactLimit`.
    """

    redis: Redis
    room: Room = field(factory=Room)
    writes: Writes = field(factory=Writes)
    _write: Script = field(factory=lambda: script("contact_write"), init=False)
    _find: Script = field(factory=lambda: script("contact_find"), init=False)
    _find_or_create: Script = field(factory=lambda: script("contact_find_or_create"), init=False)

    async def get(self, account: str, key: str) -> Contact | None:
        """The contact with a key. Raises Unreadable."""
        (answer,) = await self.redis.attempt([("HGETALL", _hash(account, key))])
        return contact_of(account, key, answer)

    async def many(
        self, account: str, keys: Sequence[str], lost: dict[str, str] | None = None
    ) -> list[Contact]:
        """The contacts with those keys that exist and can be read, in the same order. Why others
        cannot be read is added to `lost`, by their keys.
        """
        commands: list[Command] = [("HGETALL", _hash(account, key)) for key in keys]
        return contacts_of(account, keys, await self.redis.attempt(commands), lost)

    async def find(self, account: str, name: str, address: str) -> Contact | None:
        """The contact with an address in a field; of several, the one created last. Raises
        Unreadable.
        """
        try:
            found = await self.redis.run(
                self._find, [_list(account)], prefix_of(account), name, address
            )
        except StoreRefused as error:
            what = f"the contact of account {account} with {name} {address!r}"
            raise named(error, what) from error
        return None if found is None else contact_of(account, found[0].decode(), found[1])

    async def find_or_create(
        self, account: str, name: str, address: str, key: str, new: Change, most: int
    ) -> tuple[Contact, bool]:
        """The contact with an address, or a new one with that key; and whether it is new."""
        if self.room.problem and (found := await self.find(account, name, address)) is not None:
            return found, False  # reading takes no room
        created, found_key, flat = await self._run(
            self._find_or_create, account, key, name, address, key, new.encode(), most
        )  # fmt: skip
        contact = contact_of(account, found_key.decode(), flat)
        assert contact is not None
        return contact, bool(created)

    async def create(self, account: str, key: str, new: Change, most: int) -> Contact:
        """Write a contact, whether or not it exists."""
        contact = contact_of(
            account, key, await self._run(self._write, account, key, key, 0, new.encode(), most)
        )
        assert contact is not None
        return contact

    async def change(self, account: str, key: str, change: Change) -> Contact | None:
        """Change a contact; return None if it does not exist."""
        return contact_of(
            account, key, await self._run(self._write, account, key, key, 1, change.encode(), 0)
        )

    async def _run(self, script: Script, account: str, key: str, *args: Any) -> Any:
        self.room.check(sum(len(each) for each in args if isinstance(each, bytes)))
        is_written = True  # as far as we know; a caller who was cancelled does not learn it
        try:
            answer = await self.redis.run(script, [_hash(account, key)], prefix_of(account), *args)
            is_written = script is not self._find_or_create or bool(answer[0])
        except StoreRefused as error:
            raise _limit(error) from error
        else:
            return answer
        finally:
            if is_written:
                self.writes.note(account)

    async def create_many(
        self, account: str, new: Sequence[tuple[str, Change]], most: int
    ) -> dict[int, str]:
        """Write contacts with their keys, in order, each independently. Return why some were not
        written, by their index.

        Raises:
            StoreError: The store took some or none, and that is not for what they are.
        """
        commands = [
            self._write.call(
                [_hash(account, key)], prefix_of(account), key, 0, change.encode(), most
            )
            for key, change in new
        ]
        self.room.check(sum(len(command[-2]) + OVERHEAD for command in commands))
        try:
            answers = await self.redis.attempt(commands)
        finally:
            self.writes.note(account)
        raise_wide(answers)
        return {
            n: str(_limit(answer))
            for n, answer in enumerate(answers)
            if isinstance(answer, Exception)
        }

    async def page(
        self, account: str, cursor: int, limit: int, lost: dict[str, str] | None = None
    ) -> Page:
        """The contacts created after the cursor (0: from the first). `lost`: as of `many`."""
        flat = await self.redis.execute(
            "ZRANGE",
            _list(account),
            f"({cursor}",
            "+inf",
            "BYSCORE",
            "LIMIT",
            0,
            limit,
            "WITHSCORES",
        )
        keys = [key.decode() for key in flat[::2]]
        contacts = await self.many(account, keys, lost)
        return Page(contacts, int(flat[-1]) if len(keys) == limit else None)

    async def count(self, account: str) -> int:
        """How many contacts there are."""
        return int(await self.redis.execute("ZCARD", _list(account)))

    async def members(self, account: str, group: str) -> list[str]:
        """The keys of the contacts in a group."""
        return sorted(
            key.decode()
            for key in await self.redis.execute("SMEMBERS", account_key(account, "members", group))
        )

    async def count_members(self, account: str, group: str) -> int:
        """How many contacts are in a group."""
        return int(await self.redis.execute("SCARD", account_key(account, "members", group)))

    async def count_members_of(self, account: str, groups: Sequence[str]) -> list[int | Unreadable]:
        """How many contacts are in each of several groups; or why that cannot be read."""
        commands: list[Command] = [
            ("SCARD", account_key(account, "members", group)) for group in groups
        ]
        answers, found = list[Any](), list[int | Unreadable]()
        for start in range(0, len(commands), COUNTED_AT_ONCE):  # others take their turn
            answers += await self.redis.attempt(commands[start : start + COUNTED_AT_ONCE])
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, StoreError):
                error = named(answer, f"the members of group {group!r} of account {account}")
                if not isinstance(error, Unreadable):
                    raise error
                found.append(error)
            else:
                found.append(int(answer))
        return found


def _hash(account: str, key: str) -> str:
    return account_key(account, "contact", key)


def _list(account: str) -> str:
    return account_key(account, "contacts")


def _limit(error: Exception) -> Exception:
    """The error to raise for a script's refusal."""
    _, is_limit, text = str(error).partition("LIMIT ")
    return ContactLimit(text) if is_limit else error


def number_of(flat: Sequence[bytes]) -> int:
    """The number of a contact in its account, from its hash in Redis. It never changes, and no
    other contact gets it. Raises ValueError: it has none.
    """
    number = int(flat[1::2][flat[::2].index(_HIDDEN.encode())])
    if not 0 < number < NUMBER_END:
        raise ValueError(f"its number is {number}")
    return number


def contacts_of(
    account: str,
    keys: Sequence[str],
    hashes: Sequence[Sequence[bytes] | StoreError],
    lost: dict[str, str] | None = None,
) -> list[Contact]:
    """The contacts of these hashes that exist. One that cannot be read, since another program has
    written into it, is left out, and the log says so: the others are whole. It is added to `lost`,
    with the reason.

    Raises:
        StoreError: The store did not answer for one of them, or refused more than that one.
    """
    found = []
    for key, flat in zip(keys, hashes, strict=True):
        if isinstance(flat, StoreError) and not is_of_one(flat):
            raise flat
        with fence("contacts", f"contact {key!r} of account {account} is left out"):
            try:
                contact = contact_of(account, key, flat)
            except Unreadable as error:
                if lost is not None:
                    lost[key] = str(error)
                raise
            if contact is not None:
                found.append(contact)
    return found


def contact_of(account: str, key: str, flat: Sequence[bytes] | StoreError | None) -> Contact | None:
    """A contact from its hash in Redis; None if there is none.

    Raises:
        Unreadable: Another program has overwritten it.
        StoreError: `flat` is the error.
    """
    if not flat:
        return None
    what = f"contact {key!r} of account {account}"
    if isinstance(flat, StoreError):
        raise named(flat, what) from flat
    try:
        return _contact(account, key, flat)
    except (ValueError, RecursionError) as error:
        raise Unreadable(what, str(error)) from error


def _contact(account: str, key: str, flat: Sequence[bytes]) -> Contact:
    stored = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    contact: Contact = {"key": key, "user_account": account, "$VERSION": VERSION}
    for name in (*TEXTS, *DATES):
        value = stored.pop(name, None)
        contact[name] = None if value is None else value.decode()
    contact["groups"] = json.decode(stored.pop("groups", b"[]"), type=list[str])
    stored.pop(_HIDDEN, None)
    return contact | {name: json.decode(value) for name, value in sorted(stored.items())}
