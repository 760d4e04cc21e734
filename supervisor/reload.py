"""A reload of the config: read, prepared, and applied as a whole or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import trio
from attrs import asdict, define, field

from resources.fence import cause_of, fence
from resources.text import clean

from .config import Config, InvalidConfig
from .config.model import Breakage
from .config.plan import changes, plan, until_restart
from .errors import CannotStart
from .gateway import Gateway
from .gateway.channels import Channels
from .host.systemd import Systemd
from .jail.walls import Walls
from .log_output import LogWriter
from .observe import Reloaded
from .otel.exporter import Exporter
from .prometheus import Prometheus
from .runs.dispatcher import Dispatcher, Program
from .runs.programs import programs_of
from .sandboxes.code_check import CodeCheck
from .sandboxes.load_check import LoadCheck
from .search import Search

log = logging.getLogger(__name__)

ERRORS_KEPT = 3  # of a refused reload

Result = dict[str, Any]
"""The answer of POST /v1/reload."""


class Reloadable(Protocol):
    """The service, as far as a reload changes it."""

    config: Config
    walls: Walls
    code_check: CodeCheck
    load_check: LoadCheck
    dispatcher: Dispatcher
    search: Search
    gateway: Gateway
    channels: Channels
    prometheus: Prometheus
    systemd: Systemd
    exporter: Exporter
    log_writer: LogWriter | None
    is_draining: bool

    def own(self, config: Config) -> Config:
        """Return the same config with what this process has of each app's pool."""

    def status(self, reload: Result | None = None) -> str:
        """Return a line on how it is doing."""


@define(eq=False)
class Reloads:
    """Reloads the config, one reload after the other.

    Attributes:
        applied: Set by the next reload that succeeds, and replaced.
        refused: Why the last reload was refused; empty if it was not.
    """

    _service: Reloadable
    read_config: Callable[[], Config]
    is_checked: bool = False  # another process has compiled and loaded the apps
    applied: trio.Event = field(factory=trio.Event, init=False)
    refused: str = field(default="", init=False)
    _lock: trio.Lock = field(factory=trio.Lock, init=False)
    # However many ask for a preview, a reload waits for one of them.
    _preview: trio.Lock = field(factory=trio.Lock, init=False)

    async def reload(self) -> Result:
        """Read the config again and apply it as a whole, or keep the old one and say what is wrong.
        Never raises an Exception.
        """
        service = self._service
        async with self._lock:
            if service.is_draining:
                return {
                    "ok": False,
                    "errors": ["the server is about to stop: its next start reads the config"],
                }
            service.systemd.reloading()
            result: Result = {"ok": False, "errors": ["it was interrupted"]}
            try:
                with fence("reload") as caught:
                    result = await self._reload()
                if caught.error is not None:
                    result = refusal(caught.error)
                self.refused = "" if result["ok"] else "; ".join(result["errors"][:ERRORS_KEPT])
                service.prometheus(Reloaded(ok=result["ok"]))
            finally:
                if not service.is_draining:
                    service.systemd.ready(service.status(result))
            return result

    async def preview(self) -> Result:
        """What a reload would do now: `changes`, or the `errors` for which it would be refused.
        Never raises an Exception.
        """
        result: Result = {}
        async with self._preview, self._lock:
            with fence("reload", "a preview") as caught:
                try:
                    new, _ = await self._prepare()
                    rows = [asdict(one) for one in changes(self._service.config, new)]
                    notes = [*new.warnings, *self._service.load_check.notes]
                    result = {"ok": True, "changes": rows, "warnings": notes}
                except (InvalidConfig, CannotStart, Broken) as error:
                    result = refusal(error)
        return result if caught.error is None else refusal(caught.error)

    async def _reload(self) -> Result:
        """Do first what may fail or takes long, then change everything in one synchronous step."""
        service = self._service
        try:
            new, programs = await self._prepare()
        except (InvalidConfig, CannotStart, Broken) as error:
            result = refusal(error)
            log.warning("the config was not reloaded: %s", "; ".join(result["errors"]))
            return result
        changed = plan(service.config, new)
        self._apply(new, programs)
        service.load_check.trust(new.apps.values())
        log.info("the config was reloaded: %s", changed)
        with fence("reload", "the search process follows the accounts"):
            await service.search.follow(new.account_names)
        for note in service.load_check.notes:
            log.warning("%s", note)
        return {"ok": True, **changed, "warnings": [*new.warnings, *service.load_check.notes]}

    async def _prepare(self) -> tuple[Config, dict[str, Program]]:
        """Read the config; return it and its apps, ready to run. May take seconds.

        Raises:
            InvalidConfig: It lists everything that is wrong.
            Broken: Some apps cannot run.
            CannotStart: This host cannot do what the config asks for; the text says what.
        """
        service = self._service

        def read() -> tuple[Config, dict[str, Program]]:
            config = self.read_config()
            return config, programs_of(service.own(config))

        config, programs = await trio.to_thread.run_sync(read)
        apps = tuple(config.apps.values())
        breakages = [*config.breakages]
        if not self.is_checked:
            breakages += await service.code_check.breakages(apps)
        if not breakages:
            await trio.to_thread.run_sync(service.walls.prepare, apps)
        if not breakages and not self.is_checked:
            breakages = await service.load_check.breakages(apps)
        if breakages:
            raise Broken(breakages)
        return config, programs

    def _apply(self, new: Config, programs: Mapping[str, Program]) -> None:
        """Change over to a config; if that raises, change back and raise."""
        service = self._service
        old, before = service.config, service.dispatcher.programs
        # What needs a restart stays as it is, so that every reload names it until the restart.
        new = until_restart(old, new)
        try:
            self._change_over(new, programs)
        except Exception:
            with fence("reload", "the old config is put back"):
                self._change_over(old, before)
            raise
        service.prometheus.config_time.set_to_current_time()
        self.applied.set()
        self.applied = trio.Event()

    def _change_over(self, new: Config, programs: Mapping[str, Program]) -> None:
        service = self._service
        service.config = new
        service.prometheus.expect(new.apps)
        service.dispatcher.recovery.attempts = new.journal.attempts
        service.dispatcher.update(programs)
        service.search.settings = new.search
        if service.log_writer is not None:
            service.log_writer.form = new.log.stdout
        service.exporter.follow(new.otel.endpoint)
        websocket = {name for name, one in new.channels.items() if one.type == "websocket"}
        service.gateway.drop_channels(websocket)
        service.channels.follow(new.channels)


class Broken(Exception):
    """Some apps cannot run. `breakages`: what is wrong in their files."""

    def __init__(self, breakages: Sequence[Breakage]) -> None:
        super().__init__("; ".join(map(str, breakages)))
        self.breakages = breakages


def refusal(error: Exception) -> Result:
    """Return the answer to a reload that was refused, or that failed because of a bug."""
    if isinstance(error, InvalidConfig):
        problems = [f"{error.file}:{problem.line}: {problem.text}" for problem in error.problems]
    elif isinstance(error, Broken):
        problems = [str(one) for one in error.breakages]
    elif isinstance(error, CannotStart):
        problems = [str(error)]
    else:
        problems = [f"internal error: {cause_of(error)}; the old config stays"]
    return {"ok": False, "errors": [clean(problem) for problem in problems]}
