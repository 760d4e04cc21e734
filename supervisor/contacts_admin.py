"""The contacts of accounts on the admin port: pages of them, one of them, searches, and writing many at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from attrs import evolve, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from resources.contact_fields import imported_contact
from resources.contract import Refused
from resources.messages import new_id, now
from resources.stores.contacts import Change, Contacts
from resources.stores.search import ContactSearch, QueryError, SearchError

PAGE, PAGE_MAX = 100, 1000
IMPORT_MAX = 1000  # contacts in one request
BODY_MAX = 16 << 20  # bytes of one request


@frozen
class ContactsAdmin:
    """The handlers.

    Attributes:
        contacts_max: How many contacts an account may have; None where there is no such account.
    """

    contacts: Contacts
    search: ContactSearch
    contacts_max: Callable[[str], int | None]

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/accounts/{account}/contacts", self.list, methods=["GET"]),
            Route("/v1/accounts/{account}/contacts", self.write, methods=["POST"]),
            Route("/v1/accounts/{account}/contacts/{key:path}", self.get, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """A page of the contacts, or of those that a query finds; `cursor` of the answer begins the next one."""
        account = request.path_params["account"]
        try:
            limit = int(request.query_params.get("limit", PAGE))
            cursor = int(request.query_params.get("cursor", "0"))
        except ValueError:
            limit, cursor = 0, 0
        if self.contacts_max(account) is None:
            return _unknown_account(account)
        if not 1 <= limit <= PAGE_MAX or cursor < 0:
            return JSONResponse({"error": f"expected limit=1 to {PAGE_MAX}, and cursor as an answer gave it"}, 400)
        query = request.query_params.get("query")
        if query is None:
            page = await self.contacts.page(account, cursor, limit)
            found, after = page.contacts, page.cursor
        else:
            try:
                keys, last = await self.search.page(account, query, cursor, limit)
            except SearchError as error:
                return JSONResponse({"error": str(error)}, 400 if isinstance(error, QueryError) else 503)
            found = await self.contacts.many(account, keys)
            after = last if len(keys) == limit else None
        shown = None if after is None else str(after)
        return _json({"keys": [contact["key"] for contact in found], "contacts": found, "cursor": shown})

    async def get(self, request: Request) -> Response:
        """One contact."""
        account, key = request.path_params["account"], request.path_params["key"]
        if self.contacts_max(account) is None:
            return _unknown_account(account)
        contact = await self.contacts.get(account, key)
        if contact is None:
            return JSONResponse({"error": f"account {account} has no contact {key!r}"}, 404)
        return _json({"contact": contact})

    async def write(self, request: Request) -> Response:
        """Write many contacts, each wholly or not at all; what is wrong with those that were not is told by their index."""
        account = request.path_params["account"]
        most = self.contacts_max(account)
        if most is None:
            return _unknown_account(account)
        given = await _body(request)
        rows = given.get("contacts") if isinstance(given, dict) else None
        if not isinstance(rows, list) or not 1 <= len(rows) <= IMPORT_MAX:
            return JSONResponse({"error": f'expected {{"contacts": [...]}} with 1 to {IMPORT_MAX} of them'}, 400)
        errors: dict[int, str] = {}
        new: list[tuple[str, Change]] = []
        places: list[int] = []
        for index, row in enumerate(rows):
            try:
                key, change = imported_contact(row)
            except Refused as refused:
                errors[index] = refused.reason
            else:
                new.append((key or new_id(), evolve(change, set={"created_at": now(), **change.set})))
                places.append(index)
        failed = await self.contacts.create_many(account, new, most)
        errors |= {places[n]: reason for n, reason in failed.items()}
        return JSONResponse({"written": len(rows) - len(errors), "errors": {str(n): errors[n] for n in sorted(errors)}})


async def _body(request: Request) -> Any:
    """The JSON of a request; None where it is none, or too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_MAX:
            return None
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def _json(body: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _unknown_account(account: str) -> Response:
    return JSONResponse({"error": f"there is no account {account!r}"}, 404)
