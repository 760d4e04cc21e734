"""Groups of contacts. A group's members are kept with the contacts; a smart group has a query as
well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from ..fence import fence
from .errors import StoreRefused, Unreadable, named
from .keys import account_key, prefix_of
from .room import Room
from .scripts import Script, script

if TYPE_CHECKING:
    from .redis import Redis

Group = dict[str, Any]
"""Its JSON shape: name, query (null: not a smart group), user_account, created_at, key, $VERSION
(null)."""

TEXT_MAX = 8 << 20  # bytes of the names and queries in one list of groups
PAGE_BYTES = 1 << 20  # of the groups that are read at once; then the page ends
_SEVERAL, _TOO_MANY, _NONE = -1, -2, -3


class SeveralGroups(Exception):
    """More than one group has the name."""


class TooManyGroups(Exception):
    """The account may have no more groups."""


class GroupsTooLarge(Exception):
    """The groups are too large for one answer; the text says so."""


@frozen
class Groups:
    """The groups of all accounts. Every coroutine may raise `redis.StoreError`."""

    redis: Redis
    room: Room = field(factory=Room)
    _create: Script = field(factory=lambda: script("group_create"), init=False)
    _update: Script = field(factory=lambda: script("group_update"), init=False)
    _list: Script = field(factory=lambda: script("group_list"), init=False)

    async def get(self, account: str, key: str) -> Group | None:
        """The group with a key. Raises Unreadable."""
        try:
            flat = await self.redis.execute("HGETALL", account_key(account, "group", key))
        except StoreRefused as error:
            raise named(error, f"group {key!r} of account {account}") from error
        return _group(account, key, flat)

    async def find(self, account: str, name: str) -> Group | None:
        """The group with a name. Raises SeveralGroups, Unreadable."""
        found = await self._find(account, name, "", "", create=False, most=0)
        return None if found is None else found[0]

    async def find_or_create(
        self, account: str, name: str, key: str, created_at: str, most: int
    ) -> tuple[Group, bool]:
        """The group with a name, or a new one with that key, and whether it is new. Raises
        SeveralGroups, TooManyGroups.
        """
        if self.room.problem and (there := await self.find(account, name)) is not None:
            return there, False  # reading takes no room
        self.room.check(len(name))
        found = await self._find(account, name, key, created_at, create=True, most=most)
        assert found is not None
        return found

    async def _find(
        self, account: str, name: str, key: str, created_at: str, *, create: bool, most: int
    ) -> tuple[Group, bool] | None:
        keys = [
            _name(account, name),
            account_key(account, "group", key),
            account_key(account, "groups"),
        ]
        try:
            code, *found = await self.redis.run(
                self._create, keys, key, name, created_at, prefix_of(account), int(create), most
            )
        except StoreRefused as error:
            raise named(error, f"group {name!r} of account {account}") from error
        if code == _SEVERAL:
            raise SeveralGroups
        if code == _TOO_MANY:
            raise TooManyGroups(f"an account may have {most} groups")
        if code == _NONE:
            return None
        group = _group(account, found[0].decode(), found[1])
        assert group is not None
        return group, bool(code)

    async def update(self, account: str, key: str, name: str, query: str | None) -> Group | None:
        """Give a group another name and query; return None if there is no such group."""
        self.room.check(len(name) + len(query or ""))
        keys = [account_key(account, "group", key), _name(account, name)]
        flat = await self.redis.run(
            self._update, keys, key, name, int(query is not None), query or "", prefix_of(account)
        )
        return _group(account, key, flat)

    async def all(self, account: str, lost: dict[str, str] | None = None) -> list[Group]:
        """Every group that can be read, by name; why others cannot is added to `lost`, by their
        keys. Raises GroupsTooLarge.
        """
        found, listing = Found(), Listing(account, lost)
        while not listing.is_over:
            answer = await self.redis.run(self._list, listing.keys, *listing.arguments)
            found.add(listing.take(answer))
        return found.in_order()


_FIRST = b"0"  # the cursor that begins a list, and the one after its end


@define
class Listing:
    """Every group of an account, in pages of a bounded size: call the script `group_list` with
    `keys` and `arguments`, and `take` its answer, until it `is_over`.

    A group that cannot be read, since another program has written into it, is left out, and the log
    says so; it is added to `lost`, with the reason.
    """

    account: str
    lost: dict[str, str] | None = None
    is_over: bool = field(default=False, init=False)
    _cursor: bytes = field(default=_FIRST, init=False)
    _unread: list[bytes] = field(factory=list, init=False)  # keys of the last page

    @property
    def keys(self) -> list[str]:
        """The keys of the next call."""
        return [account_key(self.account, "groups")]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of the next call."""
        return (prefix_of(self.account), self._cursor, PAGE_BYTES, *self._unread)

    def take(self, answer: Sequence[Any]) -> list[Group]:
        """The groups of an answer; one may come twice."""
        self._cursor, *flat = answer
        rows = list(zip(flat[::2], flat[1::2], strict=True))
        self._unread = [key for key, fields in rows if fields is None]
        self.is_over = self._cursor == _FIRST and not self._unread
        return _groups(
            self.account, [(key, fields) for key, fields in rows if fields is not None], self.lost
        )


def _groups(
    account: str, rows: Iterable[tuple[bytes, Sequence[bytes]]], lost: dict[str, str] | None
) -> list[Group]:
    found = list[Group]()
    for raw, fields in rows:
        key = raw.decode("utf-8", "replace")
        with fence("groups", f"group {key!r} of account {account} is left out"):
            try:
                group = _group(account, key, fields)
            except Unreadable as error:
                if lost is not None:
                    lost[key] = str(error)
                raise
            if group is not None:
                found.append(group)
    return found


@define
class Found:
    """Groups from several pages, each once, of a bounded size."""

    _groups: dict[str, Group] = field(factory=dict, init=False)
    _size: int = field(default=0, init=False)

    def add(self, groups: Iterable[Group]) -> None:
        """Add some. Raises GroupsTooLarge."""
        for group in groups:
            if group["key"] not in self._groups:
                self._groups[group["key"]] = group
                self._size += _bytes(group["name"]) + _bytes(group["query"] or "")
        if self._size > TEXT_MAX:
            raise GroupsTooLarge(
                f"the names and queries of the groups have more than {TEXT_MAX} bytes"
            )

    def in_order(self) -> list[Group]:
        """All of them, by name."""
        return sorted(self._groups.values(), key=lambda group: (group["name"], group["key"]))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _name(account: str, name: str) -> str:
    return account_key(account, "groupname", name)


def _group(account: str, key: str, flat: Sequence[bytes] | None) -> Group | None:
    if not flat:
        return None
    what = f"group {key!r} of account {account}"
    try:
        stored = {
            name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)
        }
    except ValueError as error:
        raise Unreadable(what, str(error)) from error
    if "" in stored:
        raise Unreadable(what, stored[""])
    if missing := [name for name in ("name", "created_at") if name not in stored]:
        raise Unreadable(what, f"it has no {missing[0]}")
    return {
        "name": stored["name"], "query": stored.get("query"), "user_account": account,
        "created_at": stored["created_at"],
        "key": key, "$VERSION": None,
    }  # fmt: skip
