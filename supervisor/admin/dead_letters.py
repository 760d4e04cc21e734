"""Dead letters on the admin port: list, show, retry and drop them."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.deadletters import Letter, parse_id
from resources.stores.journal import read_entry

from ..runs.dead_letters import CannotRetry, DeadLetterBox, Line
from .bodies import answer, bad, number_in

LIST_MAX = 1000  # letters in one answer
NAME_SHOWN = 200  # characters of an id in an error
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
        app, cursor = asked.get("app"), asked.get("cursor")
        limit = number_in(request, "limit", 100, 1, LIST_MAX)
        before = None if cursor is None else parse_id(cursor)
        if cursor is not None and before is None:
            raise bad("cursor: expected one that the last answer gave")
        accounts = await self.box.store.accounts()
        letters = await self.box.store.newest(accounts, app, before, limit + 1)
        shown, more = letters[:limit], len(letters) > limit
        rows, next_cursor = [_row(one) for one in shown], shown[-1].id if more else None
        return answer({"deadletters": rows, "cursor": next_cursor})

    async def show(self, request: Request) -> Response:
        """A whole dead letter: `entry` is the message or event; if it cannot be read, `raw` is its
        text.
        """
        found = await self._find(request)
        if found is None:
            raise _unknown(request)
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
            raise _unknown(request)
        try:
            place = await self.box.retry(*found, self.line)
        except CannotRetry as error:
            raise bad(str(error), 409) from error
        if place is None:
            raise _unknown(request)
        return answer({"retried": found[0].id})

    async def drop(self, request: Request) -> Response:
        """Forget a dead letter."""
        found = await self._find(request)
        if found is None or not await self.box.drop(found[0]):
            raise _unknown(request)
        return answer({"dropped": found[0].id})

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


def _unknown(request: Request) -> HTTPException:
    return bad(f"there is no dead letter {request.path_params['id'][:NAME_SHOWN]}", 404)
