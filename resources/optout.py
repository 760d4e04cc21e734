"""optout: addresses that have opted out. Only for accounts that may manage them."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from .contract import Caller, Refused, Resource, command
from .messages import now, shown
from .parameters import Json, parameter
from .stores.optouts import OptOut, OptOuts, TooManyOptOuts


@frozen
class OptoutSettings:
    """Whether the account may manage its opt-outs, and how many it may have."""

    allowed: bool
    optouts_max: int


def _wrong(name: str) -> Any:
    def reason(value: Any) -> str:
        if not value:
            return f'Invalid value "{shown(value) if value != "" else ""}" for "{name}"'
        return f'"{name}" must be a string, not {shown(value)}'

    return reason


def needed(name: str) -> Any:
    """A required string, not empty."""
    return parameter(
        missing=f"Missing key: {name}",
        wrong=_wrong(name),
        check=lambda value: isinstance(value, str) and value != "",
    )


@frozen
class Address:
    """optout.status, optout.cancel_optout."""

    address_type: Json = needed("address_type")
    address_value: Json = needed("address_value")


@frozen
class Out:
    """optout.optout."""

    address_type: Json = needed("address_type")
    address_value: Json = needed("address_value")
    message_id: Json = needed("message_id")


@frozen
class Nothing:
    """optout.count."""


@frozen
class Status:
    """An address that is opted out: since when, and by which message."""

    opted_out: bool
    created_at: str
    message_id: str


@frozen
class NotOut:
    """An address that is not opted out."""

    opted_out: bool = False


@frozen
class Count:
    """How many opt-outs there are."""

    count: int


@frozen
class OptoutResource(Resource):
    """The optout commands."""

    optouts: OptOuts

    @command("optout.status")
    async def status(self, caller: Caller, request: Address) -> Status | NotOut:
        """Whether an address is opted out."""
        _check_allowed(caller)
        found = await self.optouts.get(caller.account, request.address_type, request.address_value)
        if found is None:
            return NotOut()
        return Status(True, found.created_at, found.message_id)  # noqa: FBT003  # opted out

    @command("optout.count")
    async def count(self, caller: Caller, request: Nothing) -> Count:  # noqa: ARG002  # as all
        """How many addresses are opted out."""
        _check_allowed(caller)
        return Count(await self.optouts.count(caller.account))

    @command("optout.optout")
    async def optout(self, caller: Caller, request: Out) -> Status:
        """Opt an address out; a later opt-out replaces an earlier one."""
        most = _check_allowed(caller).optouts_max
        new = OptOut(request.message_id, now())
        try:
            await self.optouts.set(
                caller.account, request.address_type, request.address_value, new, most
            )
        except TooManyOptOuts as error:
            raise Refused(str(error)) from error
        return Status(True, new.created_at, new.message_id)  # noqa: FBT003  # opted out

    @command("optout.cancel_optout")
    async def cancel_optout(self, caller: Caller, request: Address) -> NotOut:
        """Opt an address in again."""
        _check_allowed(caller)
        await self.optouts.cancel(caller.account, request.address_type, request.address_value)
        return NotOut()


def _check_allowed(caller: Caller) -> OptoutSettings:
    settings = caller.setting(OptoutSettings)
    if not settings.allowed:
        raise Refused("Account not allowed to manage optouts.")
    return settings
