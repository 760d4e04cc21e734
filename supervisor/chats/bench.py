"""A service that plays tests, one after the other. Each test has an account of its own, so it sees
nothing of those before it; the apps' processes stay from one test to the next, as in production.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve, field, fields, frozen

from resources.stores.keyspace import Quota

from ..config import Account, App, Channel, Config
from ..config.json_values import not_json
from ..config.model import Breakage, Listen, RedisServer
from ..config.units import Address, Count, Natural
from ..host.systemd import Systemd
from ..load.server import NOBODY
from ..load.stub import BOUNDS, STOP_SECONDS, Stubs
from ..ports.http import open_http
from ..ports.listening import listen
from ..runs.programs import programs_of
from ..service import Service, open_service
from .chat import Chat

LOOPBACK = Address("127.0.0.1", 0)
LOG_KEPT = 1000  # lines of the log of one test


class Unplayable(Exception):
    """The config has no app, or no channel, for a test. `path`: the key of the test's file."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path


@frozen
class TestedApp(App):
    """An app as a test runs it.

    Attributes:
        clock: As in `App`.
        made: A digest of what its processes start with. Unlike that of any other app it leaves out
            the account: tests, which come one after the other, share processes.
    """

    __test__ = False  # it is no test of ours

    clock: float | None = None
    made: str = ""

    @property
    def generation(self) -> str:
        """See `App.generation`."""
        return self.made


@frozen
class Place:
    """Where a test is held: its app, and the channel over which its user writes."""

    app: str
    channel: Channel


def place_of(chat: Chat, config: Config) -> Place:
    """Find the app and channel of a test. Raises Unplayable."""
    if chat.channel is not None:
        if chat.channel not in config.channels:
            known = ", ".join(config.channels) or "none"
            raise Unplayable(
                "channel", f"the config has no channel {chat.channel!r}; it has {known}"
            )
        channel = config.channels[chat.channel]
        name = chat.app or channel.app
    else:
        name = chat.app or _only_app(config)
        leading = [one for one in config.channels.values() if one.app == name]
        channel = leading[0] if leading else Channel("phone", app=name, transport_type="ussd")
    if name not in config.apps:
        known = ", ".join(config.apps) or "none"
        raise Unplayable("app", f"the config has no app {name!r}; it has {known}")
    return Place(name, Channel(channel.name, app=name, transport_type=channel.transport_type))


def _only_app(config: Config) -> str:
    if len(config.apps) == 1:
        return next(iter(config.apps))
    known = ", ".join(config.apps) or "none"
    raise Unplayable("app", f'expected app = "NAME", one of those of the config: {known}')


def tested(config: Config, chat: Chat, place: Place, account: str, stubs: int, take: int) -> Config:
    """The config for one test: every app in its account, on its channel, with nothing outside
    within reach.

    Args:
        config: As the developer has it.
        chat: The test.
        place: Where it is held.
        account: Its own.
        stubs: The port of the stubs.
        take: The number of the test; with a clock of its own it has a process of its own, too.
    """
    hosts = Stubs(chat.stubs, random.Random(1)).hosts  # noqa: S311  # not for secrets
    apps = {}
    for name, app in config.apps.items():
        is_own = name == place.app
        values = with_overrides(app.config, chat.config) if is_own else app.config
        changed = evolve(
            app,
            account="",
            config=values,
            endpoints=dict.fromkeys(["default", *app.endpoints], place.channel.name),
            record=True,
            pool=evolve(app.pool, min_idle=Natural(0), queue=Count(100)),
            http=evolve(
                app.http,
                allow=(NOBODY,),
                proxy="",
                connect_to=dict.fromkeys(hosts, f"http://127.0.0.1:{stubs}"),
            ),
            metrics=evolve(app.metrics, graphite=None),
        )
        clock = chat.now if is_own else None
        made = changed.generation if clock is None else f"{changed.generation}-{take}"
        whole = {a.name: getattr(changed, a.name) for a in fields(App)} | {"account": account}
        apps[name] = TestedApp(**whole, clock=clock, made=made)
    settings = config.account(config.apps[place.app].account)
    channels = {place.channel.name: place.channel}
    return evolve(config, accounts={account: settings}, apps=apps, channels=channels)


def with_overrides(config: Mapping[str, str], overrides: Mapping[str, Any]) -> Mapping[str, str]:
    """The config texts of an app, with those of a test: a text replaces the app's, a table is
    merged into the app's JSON under that key.
    """
    merged = dict(config)
    for key, value in overrides.items():
        if isinstance(value, str):
            merged[key] = value
            continue
        try:
            own = json.loads(config.get(key, "{}"))
        except ValueError:
            own = {}
        merged[key] = json.dumps(_merge(own, value), ensure_ascii=False)
    return merged


def _merge(own: Any, over: Any) -> Any:
    if not isinstance(own, dict) or not isinstance(over, dict):
        return over
    return own | {key: _merge(own.get(key), value) for key, value in over.items()}


@define(eq=False)
class Bench:
    """Made by `open_bench`.

    Attributes:
        base: The config as the developer has it; it may be replaced between two tests.
        account: That of the test being played.
    """

    base: Config
    service: Service
    _stubs: Stubs
    account: str = field(default="", init=False)
    _takes: Any = field(factory=lambda: count(1), init=False)

    async def use(self, config: Config) -> list[Breakage]:
        """Play the next tests with this config; return what is wrong in the files of its apps, so
        that they cannot run. Raises CannotStart.
        """
        apps = tuple(config.apps.values())
        found = [*config.breakages, *await self.service.code_check.breakages(apps)]
        await trio.to_thread.run_sync(self.service.walls.prepare, apps)
        self.base = config
        return found

    async def set_up(self, chat: Chat) -> Place:
        """Give the service what a test needs: its account, with what is there before.

        Raises:
            Unplayable: The config has no place for it.
        """
        place, take = place_of(chat, self.base), next(self._takes)
        name = self.base.apps[place.app].account
        self.account = f"{name[:80]}-{take}"
        config = tested(self.base, chat, place, self.account, self._stubs.port, take)
        app = config.apps[place.app]
        for one in not_json(app, lambda key: (chat.file, chat.line_of(("config", key)))):
            raise Unplayable("config", one.text)
        self._stubs.stubs = chat.stubs
        service = self.service
        service.config = config
        service.dispatcher.update(programs_of(config))
        await service.search.follow([self.account])
        await self._fill(chat, config.account(self.account))
        return place

    async def _fill(self, chat: Chat, account: Account) -> None:
        stores = self.service.stores
        for name, value in chat.kv.items():
            await stores.keyspace.set(self.account, name, value, None, _quota(account))
        most = account.contacts_max
        failed = await stores.contacts.create_many(self.account, list(chat.contacts), most)
        for index, reason in failed.items():
            raise Unplayable("contacts", f"contact {index + 1}: {reason}")


def _quota(account: Account) -> Quota:
    kv = account.kv
    return Quota(kv.keys_hard, kv.soft, kv.most_bytes)


@asynccontextmanager
async def open_bench(config: Config, folder: Path) -> AsyncIterator[Bench]:
    """Start a service for tests, with a store of its own in a folder. Raises CannotStart."""
    async with AsyncExitStack() as stack:
        playing = Stubs((), random.Random(1))  # noqa: S311  # not for secrets
        listeners = await listen("the stubs", LOOPBACK, Systemd())
        playing.port = await stack.enter_async_context(
            open_http(playing, listeners, "stub", STOP_SECONDS, bounds=BOUNDS)
        )
        quiet = evolve(
            config,
            data_dir=folder,
            listen=Listen(LOOPBACK, LOOPBACK),
            redis=RedisServer(),
            accounts={},
            apps={},
            channels={},
        )
        service = await stack.enter_async_context(open_service(quiet, lambda: quiet))
        yield Bench(config, service, playing)
