"""Groups of contacts on the admin port: list them, and write many at once."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.contact_fields import KEY_MAX, date_field
from resources.contract import Refused
from resources.messages import new_id, now, shown
from resources.stores.contacts import Contacts
from resources.stores.errors import Unreadable
from resources.stores.groups import Groups, GroupsTooLarge, SeveralGroups, TooManyGroups

from .accounts import AccountOf, account_in
from .bodies import answer, bad, encoded, is_dry_run, list_answer, off_loop, read_rows
from .strict_json import problem_in

IMPORT_MAX = 1000  # groups in one request
NAME_MAX = 1000  # characters
QUERY_MAX = 10_000  # likewise
FIELDS = ("key", "name", "query", "created_at", "members", "user_account", "$VERSION")
EXPECTED = f'expected {{"groups": [{{"name": ...}}, ...]}} with 1 to {IMPORT_MAX} of them'


@frozen
class GroupsAdmin:
    """The handlers."""

    groups: Groups
    contacts: Contacts
    account_of: AccountOf

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/accounts/{account}/groups", self.list, methods=["GET"]),
            Route("/v1/accounts/{account}/groups", self.write, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """Every group by name, each with the number of contacts that list it: what the query of a
        smart group finds is not among its `members`. Groups that cannot be read are in
        `unreadable`.
        """
        account, _ = account_in(request, self.account_of)
        lost: dict[str, str] = {}
        try:
            groups = await self.groups.all(account, lost)
        except GroupsTooLarge as error:
            raise bad(str(error), 409) from error
        counts = await self.contacts.count_members_of(account, [one["key"] for one in groups])
        rows = list[dict[str, Any]]()
        for one, count in zip(groups, counts, strict=True):
            if isinstance(count, Unreadable):
                lost[one["key"]] = str(count)
            else:
                rows.append(one | {"members": count})
        more = {"unreadable": lost} if lost else {}
        return list_answer("groups", await encoded(rows), **more)

    async def write(self, request: Request) -> Response:
        """Write many groups. One whose key exists gets the name and the query; else the group of
        the name does; else it is made. `keys` of the answer has the key of each, and `errors` says
        what is wrong with those that were not written; both by index. With `dry_run=1` nothing is
        written, and the keys are those of groups that exist.
        """
        account, settings = account_in(request, self.account_of)
        is_dry = is_dry_run(request)
        rows = await read_rows(request, "groups", IMPORT_MAX, EXPECTED)
        problems = await off_loop(lambda: [_problem(row) for row in rows])
        errors, keys = dict[str, str](), dict[str, str]()
        for index, (row, problem) in enumerate(zip(rows, problems, strict=True)):
            if problem:
                errors[str(index)] = problem
                continue
            try:
                key = await self._write(account, row, settings.groups_max, is_dry=is_dry)
            except SeveralGroups:
                errors[str(index)] = "several groups have this name; a key would tell which"
            except TooManyGroups as error:
                errors[str(index)] = str(error)
            else:
                if key:
                    keys[str(index)] = key
        return answer({"written": len(rows) - len(errors), "errors": errors, "keys": keys})

    async def _write(self, account: str, row: dict[str, Any], most: int, *, is_dry: bool) -> str:
        """Write a group; return its key, or "" if it would be new. Without a query in the row, the
        group keeps its own.
        """
        name, key = row["name"], row.get("key")
        found = None if key is None else await self.groups.get(account, key)
        if found is None:
            found = await self.groups.find(account, name)
        if is_dry:
            return found["key"] if found else ""
        if found is None:
            created_at = row.get("created_at")
            since = now() if created_at is None else date_field("created_at", created_at)
            found, _ = await self.groups.find_or_create(account, name, key or new_id(), since, most)
        query = row.get("query", found["query"]) or None
        if (found["name"], found["query"]) != (name, query):
            await self.groups.update(account, found["key"], name, query)
        return str(found["key"])


def _problem(row: Any) -> str:
    """What is wrong with a group that is to be written; empty if it is right."""
    if problem := problem_in(row):
        return problem
    if not isinstance(row, dict):
        return f"expected an object, not {shown(row)}"
    if unknown := [name for name in row if name not in FIELDS]:
        return f"there is no field {shown(unknown[0])}; known: {', '.join(FIELDS[:4])}"
    for name, most in (("name", NAME_MAX), ("key", KEY_MAX), ("query", QUERY_MAX)):
        value = row.get(name)
        is_right = value is None or (isinstance(value, str) and len(value) <= most)
        if not is_right or (value in (None, "") and name == "name") or (name, value) == ("key", ""):
            return f"'{name}' needs to be a text of {most} characters at most, not {shown(value)}"
    try:
        if row.get("created_at") is not None:
            date_field("created_at", row["created_at"])
    except Refused as refused:
        return refused.reason
    return ""
