"""From the name of a command to the resource that answers it. Always answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from logging import ERROR
from typing import Any

import attrs
import trio
from attrs import field, frozen

from resources.clock import clock
from resources.contract import Caller, Command, Refused, Resource
from resources.fence import fence, note
from resources.parameters import command_converter
from resources.stores.errors import StoreError, Unreadable
from resources.stores.fencing import Fence, fenced
from resources.stores.room import NoRoom

from ..config.model import Limits
from ..observe import CommandServed, Observer
from ..sandboxes.protocol import Request

UNAVAILABLE = "the store cannot be reached at the moment"
INTERNAL = "internal error"

log = logging.getLogger(__name__)


@frozen
class Row:
    """One command: its handler, and how to make its request."""

    resource: Resource
    command: Command
    structure: Any

    @classmethod
    def of(cls, resource: Resource, command: Command, converter: Any) -> Row:
        """The row, with the converter's function for its request looked up once."""
        return cls(resource, command, converter.get_structure_hook(command.request))


def build_table(resources: Iterable[Resource]) -> dict[str, Row]:
    """Return the commands of all resources by name.

    Raises:
        ValueError: Two resources answer the same name, which is a mistake of ours.
    """
    converter = command_converter()
    table: dict[str, Row] = {}
    for resource in resources:
        for name, command in resource.COMMANDS.items():
            if name in table:
                raise ValueError(f"two resources answer {name!r}")
            table[name] = Row.of(resource, command, converter)
    return table


@frozen
class Router:
    """Answers commands. An app can reach only what is in the table."""

    table: Mapping[str, Row]
    observe: Observer
    _fields: dict[type, tuple[str, ...]] = field(factory=dict, init=False)
    _now: Callable[[], float] = field(factory=clock, init=False)

    def route(
        self, caller: Caller, request: Request, limits: Limits, http_timeout: float
    ) -> dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]:
        """Answer a command: return the fields of the reply or, if it must be waited for, a
        coroutine that returns them.
        """
        began = self._now()
        row = self.table.get(request.name)
        if row is None:
            return self._unknown(caller, request, began)
        try:
            answer = row.command.handle(
                row.resource, caller, row.structure(request.fields, row.command.request)
            )
            if isinstance(answer, Coroutine):
                if caller.fence is not None:
                    answer = _fenced(caller.fence, answer)
                seconds = limits.command_timeout(request.name, http_timeout)
                return self._wait(answer, caller, request, seconds, began)
            reply = self._success(answer)
        except Refused as refused:
            return self._served(caller, request, "refused", _failure(refused.reason), began)
        except Exception as error:  # noqa: BLE001  # a fence that costs a command nothing
            return self._failed(caller, request, error, began)
        return self._served(caller, request, "success", reply, began)

    async def _wait(
        self,
        coming: Coroutine[Any, Any, Any],
        caller: Caller,
        request: Request,
        seconds: float,
        began: float,
    ) -> dict[str, Any]:
        try:
            with trio.CancelScope(deadline=self._now() + seconds) as scope:
                reply = self._success(await coming)
            if scope.cancelled_caught:
                reason = f"{request.name} took longer than limits.command allows ({seconds:g} s)"
                await _tell(caller, reason)
                return self._served(caller, request, "timeout", _failure(reason), began)
        except Refused as refused:
            return self._served(caller, request, "refused", _failure(refused.reason), began)
        except StoreError as error:
            log.warning("app %s: %s: %s", caller.app, request.name, error)
            reason = str(error) if isinstance(error, NoRoom | Unreadable) else UNAVAILABLE
            await _tell(caller, f"{request.name}: {reason}")
            return self._served(caller, request, "unavailable", _failure(reason), began)
        except Exception as error:  # noqa: BLE001  # likewise
            return await self._failed(caller, request, error, began)
        except BaseExceptionGroup:
            with fence("command", _what(caller, request)):
                raise  # its errors stay here, cancellations go on
            return await self._failed(caller, request, None, began)
        return self._served(caller, request, "success", reply, began)

    async def _failed(
        self, caller: Caller, request: Request, error: Exception | None, began: float
    ) -> dict[str, Any]:
        """Answer a command that failed because of a bug of ours, which is logged with its cause,
        and counted.
        """
        if error is not None:
            note("command", error, _what(caller, request))
        await _tell(caller, f"{request.name}: {INTERNAL}")
        return self._served(caller, request, "error", _failure(INTERNAL), began)

    def _served(
        self, caller: Caller, request: Request, outcome: str, reply: dict[str, Any], began: float
    ) -> dict[str, Any]:
        try:
            seconds = self._now() - began
            self.observe(CommandServed(caller.app, request.name, outcome, seconds))
        except Exception as error:  # noqa: BLE001  # a reply is worth more than a count
            note("command", error, _what(caller, request))
        return reply

    def _success(self, answer: Any) -> dict[str, Any]:
        reply = {"success": True}
        for name in self._names(type(answer)):
            reply[name] = getattr(answer, name)
        return reply

    async def _unknown(self, caller: Caller, request: Request, began: float) -> dict[str, Any]:
        resource, dot, rest = request.name.partition(".")
        if not dot:
            resource, rest = "", resource
        text = f"Resource {resource} received unknown command '{rest}' from the app."
        await _tell(caller, text)
        return self._served(
            caller, request, "unknown", _failure(f"unknown command '{request.name}'"), began
        )

    def _names(self, kind: type) -> tuple[str, ...]:
        names = self._fields.get(kind)
        if names is None:
            names = self._fields[kind] = tuple(a.name for a in attrs.fields(kind))
        return names


async def _fenced(fence: Fence, coming: Coroutine[Any, Any, Any]) -> Any:
    """Wait for an answer; what is written for it is fenced."""
    with fenced(fence):
        return await coming


def _failure(reason: str) -> dict[str, Any]:
    return {"success": False, "reason": reason}


async def _tell(caller: Caller, text: str) -> None:
    """Write an ERROR to the app's log, or to ours if the store is away."""
    try:
        await caller.log(ERROR, text)
    except StoreError:
        log.warning("app %s: not in its log, which cannot be reached: %s", caller.app, text)
    except Exception as error:  # noqa: BLE001  # a line of a log is not worth a reply
        note("log", error, f"app {caller.app}")


def _what(caller: Caller, request: Request) -> str:
    return f"app {caller.app}, {request.name}"
