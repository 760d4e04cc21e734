"""Opt-outs on the admin port: list pages of them, and write many at once."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.contact_fields import date_field
from resources.contract import Refused
from resources.messages import now, shown
from resources.stores.optouts import OptOut, OptOuts

from .accounts import AccountOf, account_in
from .bodies import (
    STEP,
    answer,
    encoded,
    is_dry_run,
    list_answer,
    number_in,
    off_loop,
    read_rows,
)
from .strict_json import problem_in

PAGE, PAGE_MAX = 500, 1000
CURSOR_MAX = 10**18 - 1  # of a page
IMPORT_MAX = 1000  # opt-outs in one request
TEXTS = {"address_type": 100, "address_value": 1000, "message_id": 1000}  # characters, at most
FIELDS = (*TEXTS, "created_at")
EXPECTED = (
    'expected {"optouts": [{"address_type": "msisdn", "address_value": "+27..."}, ...]}'
    f" with 1 to {IMPORT_MAX} of them"
)


@frozen
class OptOutsAdmin:
    """The handlers."""

    optouts: OptOuts
    account_of: AccountOf

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/accounts/{account}/optouts", self.list, methods=["GET"]),
            Route("/v1/accounts/{account}/optouts", self.write, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """A page of the opt-outs, of about `limit`, in no order; `count` is how many there are. The
        answer's `cursor` begins the next page. While others are written, one may come twice.
        """
        account, _ = account_in(request, self.account_of)
        limit = number_in(request, "limit", PAGE, 1, PAGE_MAX)
        cursor: int | None = number_in(request, "cursor", 0, 0, CURSOR_MAX)
        rows: list[bytes] = []
        while cursor is not None and len(rows) < limit:
            found, cursor = await self.optouts.page(account, cursor, limit)
            rows += await encoded(found)
        shown_cursor = None if cursor is None else str(cursor)
        count = await self.optouts.count(account)
        return list_answer("optouts", rows, count=count, cursor=shown_cursor)

    async def write(self, request: Request) -> Response:
        """Opt out many addresses; one that is opted out already gets the new message and date.
        `errors` of the answer says what is wrong with the others, by index. With `dry_run=1`
        nothing is written.
        """
        account, settings = account_in(request, self.account_of)
        is_dry = is_dry_run(request)
        rows = await read_rows(request, "optouts", IMPORT_MAX, EXPECTED)
        checked = await off_loop(lambda: [_row(row) for row in rows])
        errors = {index: row for index, row in enumerate(checked) if isinstance(row, str)}
        new = [(index, row) for index, row in enumerate(checked) if not isinstance(row, str)]
        for start in range(0, 0 if is_dry else len(new), STEP):
            some = new[start : start + STEP]
            failed = await self.optouts.set_many(
                account, [row for _, row in some], settings.optouts_max
            )
            errors |= {some[n][0]: reason for n, reason in failed.items()}
        by_index = {str(n): errors[n] for n in sorted(errors)}
        return answer({"written": len(rows) - len(errors), "errors": by_index})


def _row(given: Any) -> tuple[str, str, OptOut] | str:
    """The type and value of an address with its opt-out, or what is wrong."""
    if problem := problem_in(given):
        return problem
    if not isinstance(given, dict):
        return f"expected an object, not {shown(given)}"
    if unknown := [name for name in given if name not in FIELDS]:
        return f"there is no field {shown(unknown[0])}; known: {', '.join(FIELDS)}"
    values = {"message_id": "", **{name: one for name, one in given.items() if one is not None}}
    for name, most in TEXTS.items():
        value = values.get(name)
        least = 0 if name == "message_id" else 1
        if not isinstance(value, str) or not least <= len(value) <= most:
            return (
                f"'{name}' needs to be a text of {least} to {most} characters, not {shown(value)}"
            )
    try:
        created_at = values.get("created_at")
        since = now() if created_at is None else date_field("created_at", created_at)
    except Refused as refused:
        return refused.reason
    return values["address_type"], values["address_value"], OptOut(values["message_id"], since)
