"""log: lines in the app's log, which its developer reads."""

from __future__ import annotations

from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING

from attrs import frozen

from .contract import Caller, Later, Resource, command
from .messages import as_text
from .parameters import Json, parameter


@frozen
class Log:
    """All log commands: a message of any type, and a level that overrides the command's own."""

    msg: Json = parameter(
        missing="Value expected for msg",
        wrong="Value expected for msg",
        check=lambda msg: msg is not None,
    )
    level: int | None = parameter(None, wrong="'level' must be an integer, or null")


@frozen
class Done:
    """Nothing but success."""


@frozen
class LogResource(Resource):
    """The log commands."""

    @command("log.log", "log.info")
    def info(self, caller: Caller, request: Log) -> Done | Later[Done]:
        """Log at INFO."""
        return self._log(caller, request, INFO)

    @command("log.debug")
    def debug(self, caller: Caller, request: Log) -> Done | Later[Done]:
        """Log at DEBUG."""
        return self._log(caller, request, DEBUG)

    @command("log.warning")
    def warning(self, caller: Caller, request: Log) -> Done | Later[Done]:
        """Log at WARNING."""
        return self._log(caller, request, WARNING)

    @command("log.error")
    def error(self, caller: Caller, request: Log) -> Done | Later[Done]:
        """Log at ERROR."""
        return self._log(caller, request, ERROR)

    @command("log.critical")
    def critical(self, caller: Caller, request: Log) -> Done | Later[Done]:
        """Log at CRITICAL."""
        return self._log(caller, request, CRITICAL)

    def _log(self, caller: Caller, request: Log, level: int) -> Done | Later[Done]:
        level, text = level if request.level is None else request.level, as_text(request.msg)
        return Done() if caller.log.soon(level, text) else self._wait(caller, level, text)

    async def _wait(self, caller: Caller, level: int, text: str) -> Done:
        await caller.log(level, text)
        return Done()
