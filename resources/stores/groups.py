"""Groups of contacts. A group's members are kept with the contacts; a smart group has a query as
well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import define, field, frozen

from .keys import account_key
from .redis import Redis
from .room import Room
from .scripts import Script, script
from .statistics import prefix_of

Group = dict[str, Any]
"""Its JSON shape: name, query (null: not a smart group), user_account, created_at, key, $VERSION
(null)."""

TEXT_MAX = 8 << 20  # characters of the names and queries in one list of groups
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
        """The group with a key."""
        return _group(
            account, key, await self.redis.execute("HGETALL", account_key(account, "group", key))
        )

    async def find(self, account: str, name: str) -> Group | None:
        """The group with a name. Raises SeveralGroups."""
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
        code, *found = await self.redis.run(
            self._create, keys, key, name, created_at, prefix_of(account), int(create), most
        )
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

    async def all(self, account: str) -> list[Group]:
        """Every group, by name. Raises GroupsTooLarge."""
        found = Found()
        cursor: bytes | None = FIRST
        while cursor is not None:
            keys, arguments = listing(account, cursor)
            cursor, groups = groups_of(account, await self.redis.run(self._list, keys, *arguments))
            found.add(groups)
        return found.in_order()


FIRST = b"0"  # the cursor that begins a list


def listing(account: str, cursor: bytes) -> tuple[list[str], tuple[str, bytes]]:
    """The keys and arguments of the script `group_list`."""
    return [account_key(account, "groups")], (prefix_of(account), cursor)


def groups_of(account: str, answer: Sequence[Any]) -> tuple[bytes | None, list[Group]]:
    """The next cursor, None after the last page, and the groups from an answer of `group_list`."""
    cursor, *flat = answer
    found = (
        _group(account, key.decode(), fields)
        for key, fields in zip(flat[::2], flat[1::2], strict=True)
    )
    return None if cursor == FIRST else cursor, [group for group in found if group is not None]


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
                self._size += len(group["name"]) + len(group["query"] or "")
        if self._size > TEXT_MAX:
            raise GroupsTooLarge(
                f"the names and queries of the groups have more than {TEXT_MAX} characters"
            )

    def in_order(self) -> list[Group]:
        """All of them, by name."""
        return sorted(self._groups.values(), key=lambda group: (group["name"], group["key"]))


def _name(account: str, name: str) -> str:
    return account_key(account, "groupname", name)


def _group(account: str, key: str, flat: Sequence[bytes] | None) -> Group | None:
    if not flat:
        return None
    stored = {
        name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
    return {
        "name": stored["name"], "query": stored.get("query"), "user_account": account,
        "created_at": stored["created_at"],
        "key": key, "$VERSION": None,
    }  # fmt: skip
