"""groups: named sets of contacts; a smart group is the contacts that its query finds."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attrs import frozen

from .contract import Caller, Refused, Resource, command
from .messages import new_id, now
from .parameters import needed_string, parameter
from .stores.contacts import Contacts
from .stores.groups import Group, Groups, GroupsTooLarge, SeveralGroups, TooManyGroups
from .stores.search import ContactSearch, SearchError
from .stores.search.nodes import LENGTH_MAX
from .stores.search.quotes import advice, quoted

NOT_FOUND = "Group not found"


@frozen
class GroupsSettings:
    """How many groups the account may have."""

    groups_max: int


@frozen
class ByKey:
    """groups.get, groups.count_members."""

    key: str = needed_string("key")


@frozen
class ByName:
    """groups.get_by_name, groups.get_or_create_by_name."""

    name: str = needed_string("name")


@frozen
class Update:
    """groups.update."""

    key: str = needed_string("key")
    name: str = needed_string("name")
    query: str | None = parameter(None, wrong="'query' needs to be a string or null")


@frozen
class Search:
    """groups.search."""

    query: str = needed_string("query")


@frozen
class Nothing:
    """groups.list."""


@frozen
class One:
    """A group."""

    group: Group


@frozen
class Found:
    """A group, and whether it is new."""

    group: Group
    created: bool


@frozen
class Counted:
    """A group and the number of its members."""

    group: Group
    count: int


@frozen
class Several:
    """Groups, by name."""

    groups: Sequence[Group]


@frozen
class GroupsResource(Resource):
    """The groups commands."""

    groups: Groups
    contacts: Contacts
    search_of: ContactSearch

    @command("groups.get")
    async def get(self, caller: Caller, request: ByKey) -> One:
        """The group with a key."""
        return One(await self._get(caller, request.key))

    @command("groups.get_by_name")
    async def get_by_name(self, caller: Caller, request: ByName) -> One:
        """The group with exactly this name; refused if there are several."""
        try:
            found = await self.groups.find(caller.account, request.name)
        except SeveralGroups:
            raise Refused("Multiple groups found") from None
        if found is None:
            raise Refused(NOT_FOUND)
        return One(found)

    @command("groups.get_or_create_by_name")
    async def get_or_create_by_name(self, caller: Caller, request: ByName) -> Found:
        """The group with exactly this name, or a new one; refused if there are several."""
        most = caller.setting(GroupsSettings).groups_max
        try:
            return Found(
                *await self.groups.find_or_create(
                    caller.account, request.name, new_id(), now(), most
                )
            )
        except SeveralGroups:
            raise Refused("Multiple groups found") from None
        except TooManyGroups as error:
            raise Refused(str(error)) from error

    @command("groups.update")
    async def update(self, caller: Caller, request: Update) -> One:
        """Give a group a name and a query; without a query it is no longer a smart group."""
        length = len(request.query or "")
        if length > LENGTH_MAX:
            raise Refused(f"'query' has {length} characters, {LENGTH_MAX} are allowed")
        group = await self.groups.update(caller.account, request.key, request.name, request.query)
        if group is None:
            raise Refused(NOT_FOUND)
        for phrase in quoted(request.query or "")[:1]:
            await caller.log(logging.WARNING, f"group {request.name}: {advice(phrase)}")
        return One(group)

    @command("groups.count_members")
    async def count_members(self, caller: Caller, request: ByKey) -> Counted:
        """How many contacts are in a group; for a smart group, how many its query finds."""
        group = await self._get(caller, request.key)
        if group["query"] is None:
            return Counted(group, await self.contacts.count_members(caller.account, request.key))
        try:
            return Counted(group, await self.search_of.count(caller.account, group["query"]))
        except SearchError as error:
            raise Refused(str(error)) from error

    @command("groups.list")
    async def list(self, caller: Caller, request: Nothing) -> Several:  # noqa: ARG002  # as all
        """Every group; refused if they are too large for one answer."""
        try:
            return Several(await self.groups.all(caller.account))
        except GroupsTooLarge as error:
            raise Refused(str(error)) from error

    @command("groups.search")
    async def search(self, caller: Caller, request: Search) -> Several:
        """The groups that a query finds: its fields are name, query, key, user_account and
        created_at.
        """
        try:
            return Several(await self.search_of.groups(caller.account, request.query))
        except SearchError as error:
            raise Refused(str(error)) from error

    async def _get(self, caller: Caller, key: str) -> Group:
        group = await self.groups.get(caller.account, key)
        if group is None:
            raise Refused(NOT_FOUND)
        return group
