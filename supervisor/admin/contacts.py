"""Contacts on the admin port: list pages of them, get one, search, and write many at once."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.contact_fields import imported_contact
from resources.contract import Refused
from resources.fence import fence
from resources.messages import new_id, now
from resources.stores.contacts import Change, Contact, Contacts
from resources.stores.search import ContactSearch, QueryError, SearchError
from resources.text import clean

from ..config import Account
from .accounts import AccountOf, account_in
from .bodies import (
    STEP,
    Allowance,
    answer,
    bad,
    encoded,
    is_dry_run,
    list_answer,
    number_in,
    off_loop,
    read_rows,
)
from .strict_json import problem_in

PAGE, PAGE_MAX = 100, 1000
CURSOR_MAX = 10**15  # of a page
IMPORT_MAX = 1000  # contacts in one request
STEP_BYTES = 1 << 20  # written at a time, about
EXPECTED = f'expected {{"contacts": [...]}} with 1 to {IMPORT_MAX} of them'


@frozen
class ContactsAdmin:
    """The handlers."""

    contacts: Contacts
    search: ContactSearch
    account_of: AccountOf

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/accounts/{account}/contacts", self.list, methods=["GET"]),
            Route("/v1/accounts/{account}/contacts", self.write, methods=["POST"]),
            Route("/v1/accounts/{account}/contacts/{key:path}", self.get, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """A page of the contacts, or of those that a query finds. The answer's `cursor` begins the
        next page; contacts that cannot be read are in its `unreadable`.

        The page has fewer than `limit` contacts if they exceed `bodies.PAGE_BYTES`.
        """
        account = self._account(request)
        try:
            limit = number_in(request, "limit", PAGE, 1, PAGE_MAX)
            cursor = number_in(request, "cursor", 0, 0, CURSOR_MAX)
        except HTTPException as error:
            raise bad(f"expected limit=1 to {PAGE_MAX}, and cursor as an answer gave it") from error
        query = request.query_params.get("query")
        rows: dict[str, bytes] = {}
        lost: dict[str, str] = {}
        if query is None:
            after = await self._page(account, cursor, limit, rows, lost)
        else:
            try:
                after = await self._found(account, query, cursor, limit, rows, lost)
            except SearchError as error:
                raise bad(str(error), 400 if isinstance(error, QueryError) else 503) from error
        shown = None if after is None else str(after)
        more = {"unreadable": lost} if lost else {}
        return list_answer("contacts", rows.values(), keys=list(rows), cursor=shown, **more)

    async def _page(
        self, account: str, cursor: int, limit: int, rows: dict[str, bytes], lost: dict[str, str]
    ) -> int | None:
        left, after = Allowance(limit), cursor
        while size := left.size:
            page = await self.contacts.page(account, after, size, lost)
            await _add(rows, page.contacts, left)
            if page.cursor is None:
                return None
            after = page.cursor
        return after

    async def _found(
        self,
        account: str,
        query: str,
        cursor: int,
        limit: int,
        rows: dict[str, bytes],
        lost: dict[str, str],
    ) -> int | None:
        keys, last = await self.search.page(account, query, cursor, limit)
        left, done = Allowance(len(keys)), 0
        while size := left.size:
            some = keys[done : done + size]
            await _add(rows, await self.contacts.many(account, some, lost), left)
            done += size
            left.rows = len(keys) - done  # some contacts may be gone
        if done < len(keys):
            _, last = await self.search.page(account, query, cursor, done)  # of the shorter page
            return last
        return last if len(keys) == limit else None

    async def get(self, request: Request) -> Response:
        """One contact."""
        account, key = self._account(request), request.path_params["key"]
        contact = await self.contacts.get(account, key)
        if contact is None:
            raise bad(f"account {account} has no contact {key!r}", 404)
        return answer({"contact": contact})

    async def write(self, request: Request) -> Response:
        """Write many contacts, each wholly or not at all. `errors` of the answer says what is wrong
        with those that were not written, by index. With `dry_run=1` nothing is written, and
        `written` are those that are right.
        """
        account, settings = self._settings(request)
        is_dry = is_dry_run(request)
        rows = await read_rows(request, "contacts", IMPORT_MAX, EXPECTED)
        checked = await off_loop(_checked, rows, settings.country_code)
        errors = {index: row for index, row in enumerate(checked) if isinstance(row, str)}
        new = [(index, row) for index, row in enumerate(checked) if not isinstance(row, str)]
        while new and not is_dry:
            _, settings = self._settings(request)  # a reload may have removed the account
            some: list[tuple[int, _Row]] = []
            size = 0
            while new and len(some) < STEP and size < STEP_BYTES:
                some.append(new.pop(0))
                size += some[-1][1].size
            changes = [(row.key, row.change) for _, row in some]
            failed = await self.contacts.create_many(account, changes, settings.contacts_max)
            errors |= {some[n][0]: reason for n, reason in failed.items()}
        sorted_errors = {str(n): errors[n] for n in sorted(errors)}
        return answer({"written": len(rows) - len(errors), "errors": sorted_errors})

    def _account(self, request: Request) -> str:
        return self._settings(request)[0]

    def _settings(self, request: Request) -> tuple[str, Account]:
        return account_in(request, self.account_of)


@frozen
class _Row:
    key: str
    change: Change
    size: int  # bytes, about


async def _add(rows: dict[str, bytes], contacts: list[Contact], left: Allowance) -> None:
    found = await encoded(contacts)
    left.take(found)
    rows |= {contact["key"]: row for contact, row in zip(contacts, found, strict=True)}


def _checked(rows: list[Any], country_code: str) -> list[_Row | str]:
    """Each contact, or what is wrong with it. Slow: run it in a thread."""
    return [_row(index, row, country_code) for index, row in enumerate(rows)]


def _row(index: int, given: Any, country_code: str) -> _Row | str:
    problem = problem_in(given)
    if problem:
        return problem
    with fence("admin", f"contact {index} of an import") as caught:
        try:
            key, change = imported_contact(given, country_code)
            change = evolve(change, set={"created_at": now(), **change.set})
            return _Row(key or new_id(), change, len(change.encode()))
        except Refused as refused:
            return clean(refused.reason)
    assert caught.error is not None
    return "internal error"
