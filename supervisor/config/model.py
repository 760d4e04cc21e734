"""The config file as frozen values. Each field is a key of the file; comments give its effect."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from resources.text import read_json

from .accounts import Account
from .node import TOOLKITS
from .observing import Failing, Log, LogOutput, Metrics, Otel, Trace
from .tokens import AdminToken
from .units import Address, Count, Duration, Natural, Nice, Size, Urls

Level = Literal["strict", "standard", "none"]
Events = Literal["app", "always", "never"]


@frozen
class Listen:
    """[listen]: where the two ports are."""

    gateway: Address = Address("127.0.0.1", 8430)  # WebSocket
    admin: Address = Address("127.0.0.1", 8420)  # HTTP
    # All three are needed if admin is not loopback.
    # each the SHA-256 hex of a bearer token, or a table that also has name, scopes, expires
    admin_tokens: tuple[AdminToken, ...] = ()
    certificate: Path | None = None  # PEM, with its chain; with it both ports speak TLS
    key: Path | None = None  # PEM

    def gateway_url(self, at: Address) -> str:
        """The URL of the gateway's port, which is at this address."""
        return f"{'ws' if self.certificate is None else 'wss'}://{at}/v1"

    def admin_url(self, at: Address) -> str:
        """The URL of the admin port, which is at this address."""
        return f"{'http' if self.certificate is None else 'https'}://{at}"


@frozen
class Gateway:
    """[gateway]: limits of one WebSocket connection; `credit` and `max_frame` also those of a
    channel of another type.
    """

    credit: Count = Count(256)  # inbound messages in progress; more are rejected as overloaded
    max_frame: Size = Size(64 << 10)  # a larger frame closes the connection with 4413
    connections: Count = Count(1000)  # of all clients; more are refused
    connections_per_address: Count = Count(100)  # likewise, from one IP address; not for loopback
    ack_timeout: Duration = Duration(10.0)  # then an unacknowledged outbound is delivered again
    drain: Duration = Duration(20.0)  # after SIGTERM, time for runs in progress to end


@frozen
class RedisServer:
    """[redis]: the store of everything that must survive a restart."""

    # embedded | redis:// rediss:// unix:// redis+cluster:// redis+sentinel://
    url: str = "embedded"
    replicas: Natural = Natural(0)  # that must have a message before `accepted` (WAIT)
    fsync: Literal["everysec", "always"] = "everysec"  # of the embedded server
    # of the embedded server: with less free in data_dir, nothing new is accepted
    disk_reserve: Size = Size(64 << 20)


@frozen
class Cluster:
    """[cluster]: several servers that can reach one store, or several processes of one server."""

    # single: another server on the store is refused; standby: it waits, and takes over; shared: all
    # work
    mode: Literal["single", "standby", "shared"] = "single"
    lease: Duration = Duration(5.0)  # after this long without a sign of life, another may take over
    # of each app's journal, in mode shared; fixed by the first server
    partitions: Count = Count(16)
    processes: Count = Count(1)  # of this server, that share its work: see supervisor/processes


@frozen
class NodeSettings:
    """[node]: the Node.js that runs the sandboxes."""

    path: str = "bundled"
    max_processes: Count = Count(200)  # on the host; beyond it another app's idle process ends
    spare: Natural = Natural(1)  # processes with the toolkits loaded, for the first app to need one
    nice: Nice = Nice(5)  # how far sandboxes stand back when the host is short of CPU


PROCESS_USERS = 100_000  # user ids of the apps of each process of a server
"""Of the users from isolation.first_user on, those of each of several processes: each numbers its
apps for itself, and no two apps may share a user."""


@frozen
class Isolation:
    """[isolation]: how sandboxes are isolated."""

    # strict: also namespaces, with bubblewrap; none: resource limits only, for your own code
    level: Level = "standard"
    first_user: Count = Count(300_000)  # as root: each app runs as its own user, numbered from here


@frozen
class SearchSettings:
    """[search]: the process that searches contacts."""

    # of one query; then the process is restarted, and the query refused for a while
    timeout: Duration = Duration(5.0)
    while_building: Literal["wait", "fail"] = "wait"  # what a search does while its index is built
    memory: Size = Size(1 << 30)  # of the process
    open_indexes: Count = Count(200)  # accounts; beyond it the least recently used is closed
    idle_close: Duration = Duration(600.0)  # then an unused index is closed


@frozen
class Journal:
    """[journal]: messages that were accepted and have not run."""

    attempts: Count = Count(3)  # server deaths during an entry's run; then it is a dead letter


@frozen
class Pool:
    """[defaults.pool]: the processes of one app."""

    min_idle: Natural = Natural(0)  # warm processes kept
    max_processes: Count = Count(4)
    # in one process; if one run must be killed, the others end as crashed
    messages_in_flight: Count = Count(1)
    max_messages: Count = Count(1000)  # then the process is retired
    max_age: Duration = Duration(3600.0)  # likewise
    idle_stop: Duration = Duration(600.0)  # then an idle process above min_idle ends
    queue: Count = Count(1000)  # waiting messages; more are rejected as overloaded
    crash_backoff: Duration = Duration(10.0)  # the longest pause before a start after crashes
    trip_after: Count = Count(25)  # crashes in a row; then none is started until a reload


@frozen
class Limits:
    """[defaults.limits]: of one run, or of its process. Past one, a run ends with that outcome."""

    wall: Duration = Duration(60.0)  # outcome wall
    cpu: Duration = Duration(5.0)  # outcome cpu
    boot: Duration = Duration(10.0)  # process; outcome boot
    command: Duration = Duration(30.0)  # one command: cancelled, and answered success:false
    command_timeouts: Mapping[str, Duration] = field(factory=dict)  # by "kv.get" or "http.*"
    heap: Size = Size(64 << 20)  # process, V8 heap; outcome heap
    memory: Size = Size(256 << 20)  # process, everything; outcome memory
    stack: Size = Size(864 << 10)  # process, V8 stack: deeper recursion is a RangeError in the app
    jit: bool = False  # V8's compiler
    json_depth: Count = Count(64)  # nesting of a command; outcome protocol
    line: Size = Size(256 << 10)  # one command; outcome protocol
    output: Size = Size(1 << 20)  # all that a run writes; outcome output
    commands: Count = Count(1000)  # outcome commands
    commands_in_flight: Count = Count(32)  # more wait
    # Commands beyond it are answered one at a time, at most 500 a second; most runs have a dozen.
    commands_burst: Count = Count(50)
    open_files: Count = Count(64)  # process
    fallback_reply: str = ""  # sent if a session's run fails without a reply

    def command_timeout(self, command: str, http_timeout: float) -> float:
        """The seconds for `command`: by name, by the longest prefix `"http.*"`, or in general.

        An http command without its own entry gets 5 s more than http.timeout, so that the app sees
        the timeout of the exchange and not this one.
        """
        timeouts = self.command_timeouts
        if command in timeouts:
            return timeouts[command]
        prefixes = [key for key in timeouts if key.endswith("*") and command.startswith(key[:-1])]
        if prefixes:
            return timeouts[max(prefixes, key=len)]
        if command.startswith("http."):
            return max(self.command, http_timeout + 5.0)
        return self.command


@frozen
class Http:
    """[defaults.http]: what apps may reach, and for how long."""

    # hosts, "*.example.org" or CIDRs, with optional :port; empty: every public address
    allow: tuple[str, ...] = ()
    timeout: Duration = Duration(30.0)  # the whole exchange
    response_max: Size = Size(128 << 10)  # of the decoded body
    redirects: Natural = Natural(20)
    connect_to: Mapping[str, str] = field(factory=dict)  # by "host[:port]", the URL used instead
    proxy: str = ""


OWN_DEPTH_MAX = 256  # nesting of an app's own JSON config


@frozen
class App:
    """[apps.NAME]: one program of one account, with its limits."""

    name: str
    account: str
    javascript: Path
    modules: tuple[str, ...] = TOOLKITS  # what require() gives; anything else is null
    modules_dir: Path | None = None
    timezone: str = "UTC"
    globals: tuple[str, ...] = ("Buffer",)
    config: Mapping[str, str] = field(factory=dict)  # texts by config key
    events: Events = "app"
    endpoints: Mapping[str, str] = field(factory=dict)  # channels by endpoint, or pool:tag
    allowed_helper_metadata: tuple[str, ...] = ()
    delivery_class: str = ""
    record: bool = False  # keep every run for `jsbox replay`, with all that users write
    pool: Pool = Pool()
    limits: Limits = Limits()
    http: Http = Http()
    log: Log = Log()
    metrics: Metrics = Metrics()
    trace: Trace = Trace()
    failing: Failing = Failing()
    source: str = field(default="", repr=False)  # the text of `javascript`
    source_map: str = field(default="", repr=False)  # in JSON, if it is in a file of its own

    @property
    def clock(self) -> float | None:
        """Seconds since 1970 at which the clock of its processes begins; None: the real time. Only
        tests of apps set it (supervisor/chats).
        """
        return None

    @property
    def inspect(self) -> str:
        """HOST:PORT where a debugger may attach to its process; empty: none may. Only `jsbox dev`
        sets it (supervisor/cli/debugged.py); no config can.
        """
        return ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the app's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def own_config(self) -> Any:
        """The app's own JSON config, under the key `config`; {} if it has none.

        Raises:
            ValueError: It is not JSON, or is nested too deeply.
        """
        return read_json(self.config.get("config", "{}").encode(), OWN_DEPTH_MAX)

    @cached_property
    def generation(self) -> str:
        """A digest of everything a process starts with, and of its account; if it changes,
        processes are replaced.
        """
        limits = self.limits
        parts = (
            self.account,
            self.source,
            self.source_map,
            str(self.javascript),
            *self.modules,
            str(self.modules_dir),
            self.timezone,
            *self.globals,
            str(limits.heap),
            str(limits.memory),
            str(limits.stack),
            str(limits.jit),
            str(limits.open_files),
            str(self.pool.messages_in_flight),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@frozen
class Breakage:
    """What is wrong in a file of an app, so that the app cannot run.

    Attributes:
        line: From 1.
        column: From 1; 0 if it is not known.
    """

    app: str
    file: Path
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        place = f"{self.line}:{self.column}" if self.column else f"{self.line}"
        return f"{self.file}:{place}: app {self.app}: {self.text}"


LOCAL_BROKER = Urls(("amqp://guest:guest@127.0.0.1/%2f",))


@frozen
class AmqpSide:
    """[channels.NAME] of type amqp: the keys of its own. RabbitMQ, as Vumi's workers use it."""

    name: str  # the connector: queues NAME.inbound, NAME.event and NAME.outbound
    url: Urls = LOCAL_BROKER  # several are tried in turn
    exchange: str = "vumi"
    from_addr: str | None = None  # of sends that have none
    prefetch: Count = Count(200)  # messages that the broker sends ahead
    status: bool = False  # also read NAME.status.status, into /readyz


@frozen
class HttpSide:
    """[channels.NAME] of type http: the keys of its own. Junebug's HTTP API."""

    url: str  # of Junebug's channel: messages are posted to URL/messages/
    from_addr: str | None = None  # of sends that have none
    # where events are to be posted; empty: /channels/NAME/events at listen.gateway
    event_url: str = ""


CHANNEL_SIDES: Mapping[str, type] = {"amqp": AmqpSide, "http": HttpSide}
"""By type of channel, the keys that only this type has."""


@frozen
class Channel:
    """[channels.NAME]: a connection to the outside."""

    name: str
    type: Literal["websocket", "amqp", "http"] = "websocket"
    app: str = ""  # the app for inbound messages; empty: outbound only
    transport_type: str | None = None
    tokens: tuple[str, ...] = ()  # SHA-256 hex; empty: only clients on loopback
    amqp: AmqpSide | None = None  # if it is of that type
    http: HttpSide | None = None  # likewise


@frozen
class Config:
    """The whole file."""

    data_dir: Path = Path("jsbox-data")
    listen: Listen = Listen()
    gateway: Gateway = Gateway()
    redis: RedisServer = RedisServer()
    cluster: Cluster = Cluster()
    node: NodeSettings = NodeSettings()
    isolation: Isolation = Isolation()
    search: SearchSettings = SearchSettings()
    journal: Journal = Journal()
    log: LogOutput = LogOutput()
    otel: Otel = Otel()
    accounts: Mapping[str, Account] = field(factory=dict)
    apps: Mapping[str, App] = field(factory=dict)
    channels: Mapping[str, Channel] = field(factory=dict)
    file: Path | None = None
    warnings: tuple[str, ...] = ()
    breakages: tuple[Breakage, ...] = ()  # JSON values that are not JSON; code is not compiled here

    def account(self, name: str) -> Account:
        """The account's settings; the defaults if only an app names it."""
        return self.accounts.get(name, Account())

    @cached_property
    def account_names(self) -> tuple[str, ...]:
        """Every account: those with settings and those of apps."""
        return tuple(sorted({*self.accounts, *(app.account for app in self.apps.values())}))

    def with_listen(self, gateway: Address, admin: Address) -> Config:
        """This config with other ports, without TLS, and with local channels only."""
        listen = Listen(gateway, admin, self.listen.admin_tokens)
        return evolve(self.with_local_channels(), listen=listen)

    def with_local_channels(self) -> Config:
        """This config with channels that only gateway clients use, and without traces for others.
        Messages for real users, at its brokers and Junebugs, are left to the production server.
        """
        channels = {
            name: evolve(channel, type="websocket", amqp=None, http=None)
            for name, channel in self.channels.items()
        }
        return evolve(self, channels=channels, otel=Otel())
