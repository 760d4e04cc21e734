"""The account that a request names."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from ..config import Account
from .bodies import bad

AccountOf = Callable[[str], Account | None]
"""Gives the settings of an account; None if there is no such account."""


def account_in(request: Request, account_of: AccountOf) -> tuple[str, Account]:
    """The name of the account in a request's path, and its settings.

    Raises:
        HTTPException: There is no such account.
    """
    name = str(request.path_params["account"])
    settings = account_of(name)
    if settings is None:
        raise bad(f"there is no account {name!r}", 404)
    return name, settings
