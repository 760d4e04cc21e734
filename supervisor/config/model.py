"""The config file as frozen values. Every field is a line of the file; the comments say unit and
effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from resources.text import read_json

from .node import TOOLKITS
from .units import Address, Count, Duration, Natural, Size

Level = Literal["strict", "standard", "none"]
Events = Literal["app", "always", "never"]


@frozen
class Listen:
    """[listen]: where the two ports are."""

    gateway: Address = Address("127.0.0.1", 8430)  # WebSocket
    admin: Address = Address("127.0.0.1", 8420)  # HTTP
    # SHA-256 hex of bearer tokens; needed when admin is not loopback
    admin_tokens: tuple[str, ...] = ()
    certificate: Path | None = (
        # PEM, with what leads to its authority; then both ports speak TLS. Needed when admin is not
        # loopback
        None
    )
    key: Path | None = None  # PEM


@frozen
class Gateway:
    """[gateway]: limits of one WebSocket connection."""

    # inbound messages it may have in hand; more are rejected as overloaded
    credit: Count = Count(256)
    max_frame: Size = Size(64 << 10)  # a larger frame closes the connection with 4413
    connections: Count = Count(1000)  # of all clients; more are turned away
    # likewise from one IP address; loopback has no such bound
    connections_per_address: Count = Count(100)
    # an outbound unacknowledged for so long is delivered again
    ack_timeout: Duration = Duration(10.0)
    drain: Duration = Duration(20.0)  # after SIGTERM, time for runs in hand to end


@frozen
class RedisServer:
    """[redis]: the store of everything that must survive."""

    url: str = "embedded"  # embedded | redis:// rediss:// unix:// redis+cluster://
    fsync: Literal["everysec", "always"] = "everysec"  # of the embedded server
    # of the embedded server: with less free in data_dir nothing new is taken in
    disk_reserve: Size = Size(64 << 20)


@frozen
class NodeSettings:
    """[node]: the Node.js that runs the sandboxes."""

    path: str = "bundled"
    # on the whole host; when reached, an idle process of another app makes room
    max_processes: Count = Count(200)
    # processes with the toolkits loaded that wait for the first app that needs one
    spare: Natural = Natural(1)


@frozen
class Isolation:
    """[isolation]: how sandboxes are held."""

    # strict: namespaces too, with bubblewrap; none: resource limits only, for your own code
    level: Level = "standard"
    # as root: each app runs as a user of its own, numbered from here
    first_user: Count = Count(300_000)


@frozen
class SearchSettings:
    """[search]: the process that searches contacts."""

    timeout: Duration = Duration(
        5.0
    )  # one query; then the process is ended and started again, and the query refused for a while
    # what a search does while its index is being built
    while_building: Literal["wait", "fail"] = "wait"
    memory: Size = Size(1 << 30)  # of the process
    open_indexes: Count = Count(200)  # accounts; of more, those asked least recently are closed
    idle_close: Duration = Duration(600.0)  # an index that nobody asks is closed after so long


@frozen
class Journal:
    """[journal]: what was accepted and has not been run."""

    # deaths of the server in which an entry is in progress; then it is a dead letter
    attempts: Count = Count(3)


@frozen
class Pool:
    """[defaults.pool]: the processes of one app."""

    min_idle: Natural = Natural(0)  # warm processes kept
    max_processes: Count = Count(4)  # and so runs at a time
    messages_in_flight: Count = Count(
        1
    )  # in one process; when one of them must be ended, so are the others, as crashed
    max_messages: Count = Count(1000)  # then the process is retired
    max_age: Duration = Duration(3600.0)  # likewise
    idle_stop: Duration = Duration(600.0)  # an idle process above min_idle ends after so long
    queue: Count = Count(1000)  # waiting messages; more are rejected as overloaded
    crash_backoff: Duration = Duration(
        10.0
    )  # the longest pause before a start, when processes end by themselves again and again
    # so many of those in a row, and no more is started until a reload
    trip_after: Count = Count(25)


@frozen
class Limits:
    """[defaults.limits]: of one run, unless it says process. Each ends the run in the outcome
    named.
    """

    wall: Duration = Duration(60.0)  # outcome wall
    cpu: Duration = Duration(5.0)  # outcome cpu
    boot: Duration = Duration(10.0)  # process; outcome boot
    command: Duration = Duration(30.0)  # one command: cancelled, and answered success:false
    # "kv.get" or "http.*" to its own time
    command_timeouts: Mapping[str, Duration] = field(factory=dict)
    heap: Size = Size(64 << 20)  # process, V8 heap; outcome heap
    memory: Size = Size(256 << 20)  # process, everything; outcome memory
    stack: Size = Size(864 << 10)  # process, V8 stack: deeper recursion is a RangeError in the app
    jit: bool = False  # V8's compiler
    json_depth: Count = Count(64)  # nesting of a command; outcome protocol
    line: Size = Size(256 << 10)  # one command; outcome protocol
    output: Size = Size(1 << 20)  # all a run writes; outcome output
    commands: Count = Count(1000)  # outcome commands
    commands_in_flight: Count = Count(32)  # more wait
    commands_burst: Count = Count(
        50
        # of a run; those beyond are answered one at a time, 500 a second at most: ordinary runs have a
        # dozen
    )
    open_files: Count = Count(64)  # process
    fallback_reply: str = ""  # sent when a session's run ends without a reply and not ok

    def command_timeout(self, command: str, http_timeout: float) -> float:
        """Seconds that `command` may take: by its name, by the longest prefix `"http.*"`, or the
        general one.

        An http command with no entry of its own gets 5 s more than http.timeout, so that the app
        learns of the timeout of the exchange, not of ours.
        """
        timeouts = self.command_timeouts
        if command in timeouts:
            return timeouts[command]
        prefixes = [key for key in timeouts if key.endswith("*") and command.startswith(key[:-1])]
        if prefixes:
            return timeouts[max(prefixes, key=len)]
        return (
            max(self.command, http_timeout + 5.0) if command.startswith("http.") else self.command
        )


@frozen
class Http:
    """[defaults.http]: what apps may reach, and for how long."""

    # hosts, "*.example.org", CIDRs, with optional :port; none = every public address
    allow: tuple[str, ...] = ()
    timeout: Duration = Duration(30.0)  # the whole exchange
    response_max: Size = Size(128 << 10)  # of the decoded body
    redirects: Natural = Natural(20)
    # "host" or "host:port" to the URL contacted instead
    connect_to: Mapping[str, str] = field(factory=dict)
    proxy: str = ""


@frozen
class Log:
    """[defaults.log]."""

    kept: Count = Count(1000)  # newest entries per app


@frozen
class Metrics:
    """[defaults.metrics]: where the metrics that apps fire go."""

    graphite: Address | None = None  # plaintext protocol; none: they are counted and dropped
    prefix: str = "go.campaigns"  # <prefix>.<account>.stores.<store>.<metric>.<agg>
    bucket: Duration = Duration(60.0)


@frozen
class Trace:
    """[defaults.trace]: the time lines of runs that `jsbox trace` shows, and what `record = true`
    keeps for `jsbox replay`.
    """

    runs: Natural = Natural(200)  # newest kept per app, in memory; 0 = none
    notable: Natural = Natural(100)  # and besides, the newest that failed or were slow
    # a message that took so long, from its acceptance to the end of its run
    slow: Duration = Duration(2.0)
    recorded: Count = Count(1000)  # newest recordings kept per app, in the store
    recorded_for: Duration = Duration(72 * 3600.0)  # then a recording is gone


BYTES_PER_KEY = 8 << 10


@frozen
class KvQuota:
    """accounts.NAME.kv: bounds of an account's key-value store."""

    keys_hard: Count = Count(10000)  # more are refused
    keys_soft: Natural | None = None  # a warning in the app's log; default 80% of keys_hard
    value_max: Size = Size(64 << 10)  # one value, as JSON text
    # all names and values together, more are refused; default 8 KiB times keys_hard
    bytes_max: Size | None = None

    @property
    def soft(self) -> int:
        """The number of keys above which a warning is logged."""
        return int(self.keys_hard * 0.8) if self.keys_soft is None else self.keys_soft

    @property
    def most_bytes(self) -> int:
        """What all names and values together may take."""
        return self.keys_hard * BYTES_PER_KEY if self.bytes_max is None else self.bytes_max


@frozen
class Account:
    """[accounts.NAME]: a tenant."""

    can_manage_optouts: bool = False  # whether its apps may use the optout commands
    contacts_max: Count = Count(10_000_000)  # more are refused
    groups_max: Count = Count(10_000)  # likewise
    optouts_max: Count = Count(10_000_000)  # likewise
    kv: KvQuota = KvQuota()


OWN_DEPTH_MAX = 256  # nesting of an app's own JSON config


@frozen
class App:
    """[apps.NAME]: one program of one account, with the limits that hold for it."""

    name: str
    account: str
    javascript: Path
    modules: tuple[str, ...] = TOOLKITS  # what require() gives; anything else is null
    modules_dir: Path | None = None
    timezone: str = "UTC"
    globals: tuple[str, ...] = ("Buffer",)
    config: Mapping[str, str] = field(factory=dict)  # config key to its text
    events: Events = "app"
    endpoints: Mapping[str, str] = field(factory=dict)  # endpoint, or pool:tag, to channel
    allowed_helper_metadata: tuple[str, ...] = ()
    delivery_class: str = ""
    # keep every run's message, commands and replies for `jsbox replay`: all that users write
    record: bool = False
    pool: Pool = Pool()
    limits: Limits = Limits()
    http: Http = Http()
    log: Log = Log()
    metrics: Metrics = Metrics()
    trace: Trace = Trace()
    source: str = field(default="", repr=False)  # the text of `javascript`

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the app's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def own_config(self) -> Any:
        """The app's own JSON config, under the key `config`; {} if it has none.

        Raises:
            ValueError: It is no JSON, or is nested too deeply.
        """
        return read_json(self.config.get("config", "{}").encode(), OWN_DEPTH_MAX)

    @cached_property
    def generation(self) -> str:
        """A digest of all that a process is started with: when it changes, processes are replaced."""
        limits = self.limits
        parts = (
            self.source, str(self.javascript), *self.modules, str(self.modules_dir), self.timezone, *self.globals,
            str(limits.heap), str(limits.memory), str(limits.stack), str(limits.jit), str(limits.open_files),
            str(self.pool.messages_in_flight),
        )  # fmt: skip
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@frozen
class Channel:
    """[channels.NAME]: a connection to the outside."""

    name: str
    type: Literal["websocket"] = "websocket"
    app: str = ""  # inbound goes to this app; none: outbound only
    transport_type: str | None = None
    tokens: tuple[str, ...] = ()  # SHA-256 hex; none = only clients on loopback


@frozen
class Config:
    """The whole file."""

    data_dir: Path = Path("jsbox-data")
    listen: Listen = Listen()
    gateway: Gateway = Gateway()
    redis: RedisServer = RedisServer()
    node: NodeSettings = NodeSettings()
    isolation: Isolation = Isolation()
    search: SearchSettings = SearchSettings()
    journal: Journal = Journal()
    accounts: Mapping[str, Account] = field(factory=dict)
    apps: Mapping[str, App] = field(factory=dict)
    channels: Mapping[str, Channel] = field(factory=dict)
    file: Path | None = None
    warnings: tuple[str, ...] = ()

    def account(self, name: str) -> Account:
        """The account's settings; one that is only named by an app has the defaults."""
        return self.accounts.get(name, Account())

    @cached_property
    def account_names(self) -> tuple[str, ...]:
        """Every account: those with settings, and those that apps belong to."""
        return tuple(sorted({*self.accounts, *(app.account for app in self.apps.values())}))

    def with_listen(self, gateway: Address, admin: Address) -> Config:
        """This config on other ports, without TLS."""
        return evolve(self, listen=Listen(gateway, admin, self.listen.admin_tokens))
