"""Outboxes on the admin port: what waits on each channel; list it, show and drop messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import trio
from attrs import define, field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.outbox import Outbox, Parcel, Struck, Waiting
from resources.stores.redis import StoreError
from resources.text import read_json

from ..config.model import Channel
from .bodies import PAGE_BYTES, answer, bad, encoded, is_number, list_answer, number_in

LIST_MAX = 1000  # messages in one answer
LOOK_EVERY = 5.0  # seconds between two looks at all outboxes
NAME_SHOWN = 200  # characters of a name in an error


class HasOutlets(Protocol):
    """The deliveries."""

    def drop(self, channel: str, parcel: Parcel) -> None:
        """Hand out this parcel no more."""


@define(eq=False)
class OutboxAdmin:
    """GET /v1/outbox, /v1/outbox/CHANNEL and /v1/outbox/CHANNEL/DELIVERY, DELETE of the latter two.

    Attributes:
        found: What waits on each channel, as of the last look.
    """

    _outbox: Outbox
    _deliveries: HasOutlets
    _channels: Callable[[], Mapping[str, Channel]]
    found: Mapping[str, Waiting] = field(factory=dict, init=False)

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        of_channel, of_one = "/v1/outbox/{channel}", "/v1/outbox/{channel}/{delivery}"
        return [
            Route("/v1/outbox", self.summary, methods=["GET"]),
            Route(of_channel, self.list, methods=["GET"]),
            Route(of_channel, self.drop_oldest, methods=["DELETE"]),
            Route(of_one, self.show, methods=["GET"]),
            Route(of_one, self.drop, methods=["DELETE"]),
        ]

    async def watch(self) -> None:
        """Look at all outboxes from time to time, for ever. A store that is away is seen
        elsewhere.
        """
        while True:
            try:
                self.found = await self._look()
            except StoreError:
                self.found = {}
            await trio.sleep(LOOK_EVERY)

    async def _look(self) -> dict[str, Waiting]:
        return {name: await self._outbox.waits(name) for name in list(self._channels())}

    async def summary(self, _: Request) -> Response:
        """How many messages wait on each channel, their bytes, since when the oldest waits, and the
        number of the newest.
        """
        self.found = await self._look()
        rows = [
            {
                "channel": channel,
                "count": one.count,
                "bytes": one.size,
                "oldest": None if one.oldest is None else _time(one.oldest),
                "newest": one.newest,
            }
            for channel, one in self.found.items()
        ]
        return list_answer("outboxes", await encoded(rows))

    async def list(self, request: Request) -> Response:
        """The messages of a channel, oldest first, without what they say; at most `limit` (100 by
        default), after `cursor`. A page of large messages has fewer of them.
        """
        channel = self._channel(request)
        limit = number_in(request, "limit", 100, 1, LIST_MAX)
        after = number_in(request, "cursor", 0, 0, (1 << 53) - 1)
        page = await self._outbox.page(channel, after, limit)
        rows = await encoded(_row(one, _read(one)) for one in page.parcels)
        is_over = page.is_last or not page.parcels
        return list_answer("messages", rows, cursor=None if is_over else page.parcels[-1].delivery)

    async def show(self, request: Request) -> Response:
        """A whole message: `message`; if it cannot be read, it is null."""
        parcel = await self._find(request)
        message = _read(parcel)
        shown = message if len(parcel.message) <= PAGE_BYTES else None
        return answer(_row(parcel, message) | {"message": shown})

    async def drop(self, request: Request) -> Response:
        """Take a message out. A client that was given it may have sent it."""
        parcel = await self._find(request)
        await self._drop(self._channel(request), [parcel])
        return answer({"dropped": parcel.delivery})

    async def drop_oldest(self, request: Request) -> Response:
        """Take out the oldest messages up to the number `until`, as many as fit into a page; `more`
        says whether there are others.
        """
        channel = self._channel(request)
        until = number_in(request, "until", 0, 1, (1 << 53) - 1)
        if not until:
            raise bad("until: expected a delivery number")
        page = await self._outbox.page(channel, 0, LIST_MAX)
        parcels = [one for one in page.parcels if one.delivery <= until]
        await self._drop(channel, parcels)
        is_more = not page.is_last and len(parcels) == len(page.parcels)
        return answer({"dropped": len(parcels), "more": is_more})

    async def _drop(self, channel: str, parcels: Sequence[Parcel]) -> None:
        for one in parcels:
            self._deliveries.drop(channel, one)
        await self._outbox.strike(channel, [Struck(one.delivery) for one in parcels])

    def _channel(self, request: Request) -> str:
        channel: str = request.path_params["channel"]
        if channel not in self._channels():
            raise bad(f"there is no channel {channel[:NAME_SHOWN]!r}", 404)
        return channel

    async def _find(self, request: Request) -> Parcel:
        channel, text = self._channel(request), request.path_params["delivery"]
        number = int(text) if is_number(text) else 0
        if number:
            for one in await self._outbox.after(channel, number - 1, 1):
                if one.delivery == number:
                    return one
        raise _unknown(channel, text)


def _read(parcel: Parcel) -> dict[str, Any] | None:
    try:
        found = read_json(parcel.message)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _row(parcel: Parcel, message: dict[str, Any] | None) -> dict[str, Any]:
    names = ("message_id", "timestamp", "to_addr", "from_addr", "in_reply_to", "session_event")
    given = message or {}
    return {
        "delivery": parcel.delivery,
        "attempts": parcel.attempts,
        "bytes": len(parcel.message),
        **{name: given.get(name) for name in names},
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _unknown(channel: str, text: str) -> HTTPException:
    return bad(f"there is no message {text[:NAME_SHOWN]} in the outbox of {channel}", 404)
