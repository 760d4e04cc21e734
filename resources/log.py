"""log: lines in the app's log, which its developer reads."""

from __future__ import annotations

from attrs import frozen

from .contract import Caller, Resource, command
from .convert import Json, parameter
from .messages import as_text

DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50


@frozen
class Log:
    """All log commands: a message of any type, and a level that beats the command's own."""

    msg: Json = parameter(
        missing="Value expected for msg", wrong="Value expected for msg", check=lambda msg: msg is not None
    )
    level: int | None = parameter(None, wrong="'level' must be an integer, or null")


@frozen
class Done:
    """Nothing but success."""


@frozen
class LogResource(Resource):
    """The log commands."""

    @command("log.log", "log.info")
    async def info(self, caller: Caller, request: Log) -> Done:
        """Log at INFO."""
        return await self._log(caller, request, INFO)

    @command("log.debug")
    async def debug(self, caller: Caller, request: Log) -> Done:
        """Log at DEBUG."""
        return await self._log(caller, request, DEBUG)

    @command("log.warning")
    async def warning(self, caller: Caller, request: Log) -> Done:
        """Log at WARNING."""
        return await self._log(caller, request, WARNING)

    @command("log.error")
    async def error(self, caller: Caller, request: Log) -> Done:
        """Log at ERROR."""
        return await self._log(caller, request, ERROR)

    @command("log.critical")
    async def critical(self, caller: Caller, request: Log) -> Done:
        """Log at CRITICAL."""
        return await self._log(caller, request, CRITICAL)

    async def _log(self, caller: Caller, request: Log, level: int) -> Done:
        await caller.log(level if request.level is None else request.level, as_text(request.msg))
        return Done()
