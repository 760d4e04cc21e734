"""From the name of a command to the resource that answers it. Always answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import trio
from attrs import field, frozen

from resources.contract import Caller, Command, Refused, Resource
from resources.convert import strict_converter
from resources.stores.redis import Unavailable

from .config.model import Limits
from .observe import Observer
from .protocol import Request

ERROR = 40
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
    """The commands of all resources by name; a name that two of them answer is a mistake of ours."""
    converter = strict_converter()
    table: dict[str, Row] = {}
    for resource in resources:
        for name, command in resource.COMMANDS.items():
            if name in table:
                raise ValueError(f"two resources answer {name!r}")
            table[name] = Row.of(resource, command, converter)
    return table


@frozen
class Router:
    """Answers commands. Only what stands in the table can be reached."""

    table: Mapping[str, Row]
    observer: Observer
    _fields: dict[type, tuple[str, ...]] = field(factory=dict, init=False)

    async def route(self, caller: Caller, request: Request, limits: Limits, http_timeout: float) -> dict[str, Any]:
        """The fields of the reply to a command."""
        began = trio.current_time()
        row = self.table.get(request.name)
        if row is None:
            outcome, reply = "unknown", await self._unknown(caller, request)
        else:
            outcome, reply = await self._carry_out(
                row, caller, request, limits.command_timeout(request.name, http_timeout)
            )
        self.observer.command_served(caller.app, request.name, outcome, trio.current_time() - began)
        return reply

    async def _carry_out(
        self, row: Row, caller: Caller, request: Request, seconds: float
    ) -> tuple[str, dict[str, Any]]:
        try:
            structured = row.structure(request.fields, row.command.request)
            with trio.fail_after(seconds):
                answer = await row.command.handle(row.resource, caller, structured)
        except Refused as refused:
            return "refused", _failure(refused.reason)
        except trio.TooSlowError:
            reason = f"{request.name} took longer than limits.command allows ({seconds:g} s)"
            await _tell(caller, reason)
            return "timeout", _failure(reason)
        except Unavailable as error:
            log.warning("app %s: %s: %s", caller.app, request.name, error)
            await _tell(caller, f"{request.name}: {UNAVAILABLE}")
            return "unavailable", _failure(UNAVAILABLE)
        except Exception:  # a bug of ours must not end the service of every app: it is logged whole, and counted
            log.exception("app %s: %s failed", caller.app, request.name)
            await _tell(caller, f"{request.name}: {INTERNAL}")
            return "error", _failure(INTERNAL)
        return "success", {"success": True} | {name: getattr(answer, name) for name in self._names(type(answer))}

    async def _unknown(self, caller: Caller, request: Request) -> dict[str, Any]:
        resource, dot, rest = request.name.partition(".")
        if not dot:
            resource, rest = "", resource
        text = f"Resource {resource} received unknown command '{rest}' from the app."
        await _tell(caller, text)
        return _failure(f"unknown command '{request.name}'")

    def _names(self, kind: type) -> tuple[str, ...]:
        names = self._fields.get(kind)
        if names is None:
            names = self._fields[kind] = tuple(a.name for a in attrs.fields(kind))
        return names


def _failure(reason: str) -> dict[str, Any]:
    return {"success": False, "reason": reason}


async def _tell(caller: Caller, text: str) -> None:
    """An ERROR in the app's log, where that can be had."""
    try:
        await caller.log(ERROR, text)
    except Unavailable:
        log.warning("app %s: not in its log, which cannot be reached: %s", caller.app, text)
