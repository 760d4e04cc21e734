"""Values of an app's key-value store on the admin port."""

from __future__ import annotations

from typing import Protocol

import msgspec
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.text import json_line

from .accounts import AccountOf, account_in
from .bodies import PAGE_BYTES, answer, bad

KEY_SHOWN = 200  # characters of a key in an error


class HasValues(Protocol):
    """The store of the values."""

    async def get(self, account: str, name: str) -> bytes | None:
        """The JSON text under a name, or None."""


@frozen
class KvAdmin:
    """GET /v1/accounts/ACCOUNT/kv/KEY."""

    values: HasValues
    account_of: AccountOf

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/accounts/{account}/kv/{key:path}", self.get)]

    async def get(self, request: Request) -> Response:
        """A value, as kv.get gives it to the account's apps; null if there is none."""
        account, _ = account_in(request, self.account_of)
        key = request.path_params["key"]
        text = await self.values.get(account, key)
        if text is not None and len(text) > PAGE_BYTES:
            raise bad(f"the value of {key[:KEY_SHOWN]!r} has {len(text)} bytes", 413)
        try:
            value = None if text is None else msgspec.Raw(json_line(text))
        except ValueError as error:  # another program wrote it
            raise bad(f"the value of {key[:KEY_SHOWN]!r} in the store is not JSON", 409) from error
        return answer({"key": key, "value": value})
