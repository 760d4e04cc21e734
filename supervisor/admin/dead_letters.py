"""Dead letters on the admin port: list, show, retry and drop them."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from resources.stores.deadletters import Letter, parse_id
from resources.stores.journal import read_entry
from resources.text import is_clean

from ..runs.dead_letters import CannotRetry, DeadLetterBox, Line
from .bodies import answer, is_number

LIST_MAX = 1000
RAW_MAX = 1 << 20  # bytes shown of one that cannot be read


@frozen
class DeadLettersAdmin:
    """GET /v1/deadletters and /v1/deadletters/ID, POST /v1/deadletters/ID/retry, DELETE
    /v1/deadletters/ID.
    """

    box: DeadLetterBox
    line: Line

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/deadletters", self.list),
            Route("/v1/deadletters/{id:path}/retry", self.retry, methods=["POST"]),
            Route("/v1/deadletters/{id:path}", self.show, methods=["GET"]),
            Route("/v1/deadletters/{id:path}", self.drop, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        """The dead letters of all apps, or of `app`, newest first; at most `limit` (100 by
        default), from `cursor` on.

        Apps and accounts need not be in the config.
        """
        asked = request.query_params
        app, cursor, limit = asked.get("app"), asked.get("cursor"), asked.get("limit", "100")
        if not is_number(limit) or not 1 <= int(limit) <= LIST_MAX:
            return JSONResponse({"error": f"limit: expected 1 to {LIST_MAX}"}, 400)
        before = None if cursor is None else parse_id(cursor)
        if cursor is not None and before is None:
            return JSONResponse({"error": "cursor: expected one that the last answer gave"}, 400)
        accounts = await self.box.store.accounts()
        letters = await self.box.store.newest(accounts, app, before, int(limit) + 1)
        shown, more = letters[: int(limit)], len(letters) > int(limit)
        rows, next_cursor = [_row(one) for one in shown], shown[-1].id if more else None
        return answer({"deadletters": rows, "cursor": next_cursor})

    async def show(self, request: Request) -> Response:
        """A whole dead letter: `entry` is the message or event; if it cannot be read, `raw` is its
        text.
        """
        found = await self._find(request)
        if found is None:
            return _unknown(request)
        letter, raw = found
        entry, problem = read_entry(raw, letter.account, letter.summary.app)
        if entry is None or problem:
            text = raw[:RAW_MAX].decode("utf-8", "replace")
            return answer(_row(letter) | {"raw": text, "cut": max(len(raw) - RAW_MAX, 0)})
        return answer(_row(letter) | {"entry": entry.payload})

    async def retry(self, request: Request) -> Response:
        """Have a dead letter run again, after everything that waits."""
        found = await self._find(request)
        if found is None:
            return _unknown(request)
        try:
            place = await self.box.retry(*found, self.line)
        except CannotRetry as error:
            return JSONResponse({"error": str(error)}, 409)
        return _unknown(request) if place is None else JSONResponse({"retried": found[0].id})

    async def drop(self, request: Request) -> Response:
        """Forget a dead letter."""
        found = await self._find(request)
        if found is None or not await self.box.drop(found[0]):
            return _unknown(request)
        return JSONResponse({"dropped": found[0].id})

    async def _find(self, request: Request) -> tuple[Letter, bytes] | None:
        named = parse_id(request.path_params["id"])
        return None if named is None else await self.box.store.find(*named)


def _row(letter: Letter) -> dict[str, Any]:
    one = letter.summary
    return {
        "id": letter.id,
        "app": one.app,
        "account": letter.account,
        "channel": one.channel,
        "kind": one.kind,
        "message_id": one.message_id,
        "time": letter.time,
        "accepted": letter.accepted,
        "attempts": one.attempts,
        "reason": one.reason,
        "can_retry": not one.problem,
        "size": one.size,
    }


def _unknown(request: Request) -> Response:
    name = request.path_params["id"][:200]
    text = f"there is no dead letter {name if is_clean(name) else '?'}"
    return JSONResponse({"error": text}, 404)
