"""The config file: strict, with every error at once and in its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import Config, InvalidConfig, load
from supervisor.config.locate import locate
from supervisor.config.model import App
from supervisor.config.plan import plan
from supervisor.config.units import parse_address, parse_duration, parse_size

APP = """
[apps.survey]
account = "acme"
javascript = "survey.js"
"""
CHANNEL = """
[channels.phone]
app = "survey"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "survey.js").write_text("api.on_inbound_message = function () {};")
    return tmp_path


def read(folder: Path, text: str) -> Config:
    (folder / "jsbox.toml").write_text(text)
    return load(folder / "jsbox.toml")


def errors(folder: Path, text: str) -> list[str]:
    """The errors as `LINE: text`."""
    with pytest.raises(InvalidConfig) as raised:
        read(folder, text)
    assert all(
        line.startswith(f"{folder / 'jsbox.toml'}:") for line in str(raised.value).splitlines()
    )
    return [f"{problem.line}: {problem.text}" for problem in raised.value.problems]


def test_the_smallest_config_has_the_documented_defaults(folder: Path) -> None:
    """Without a word the values are those that the design shows."""
    config = read(folder, APP + CHANNEL)
    app = config.apps["survey"]
    assert str(config.listen.gateway) == "127.0.0.1:8430"
    assert str(config.listen.admin) == "127.0.0.1:8420"
    assert config.data_dir == folder / "jsbox-data"
    assert (config.redis.url, config.redis.fsync, config.isolation.level) == (
        "embedded",
        "everysec",
        "standard",
    )
    pool, limits, http = app.pool, app.limits, app.http
    assert (pool.min_idle, pool.max_processes, pool.max_messages, pool.max_age) == (
        0,
        4,
        1000,
        3600,
    )
    assert (pool.idle_stop, pool.queue) == (600, 1000)
    assert (limits.wall, limits.cpu, limits.boot, limits.command) == (60, 5, 10, 30)
    assert (limits.heap, limits.memory, limits.stack) == (64 << 20, 256 << 20, 864 << 10)
    assert (limits.jit, limits.json_depth, limits.line, limits.output) == (
        False,
        64,
        256 << 10,
        1 << 20,
    )
    assert (
        limits.commands,
        limits.commands_in_flight,
        limits.open_files,
        limits.fallback_reply,
    ) == (
        1000,
        32,
        64,
        "",
    )
    assert (http.allow, http.timeout, http.response_max, http.redirects) == ((), 30, 128 << 10, 20)
    assert (app.log.kept, app.metrics.graphite, app.metrics.prefix, app.metrics.bucket) == (
        1000,
        None,
        "go.campaigns",
        60,
    )
    assert app.modules == ("vumigo_v02", "lodash", "moment", "q", "jed")
    assert (app.timezone, app.globals, app.events, app.delivery_class) == (
        "UTC",
        ("Buffer",),
        "app",
        "",
    )
    quota = config.account("acme").kv
    assert (quota.keys_hard, quota.soft, quota.value_max) == (10000, 8000, 64 << 10)
    assert app.endpoints == {"default": "phone"}
    assert config.warnings == (
        'apps.survey: account "acme" has no [accounts.acme]; the defaults hold for it',
    )


def test_apps_override_the_defaults_key_by_key(folder: Path) -> None:
    """An app's tables change what they name and inherit the rest, nested tables too."""
    text = """
[defaults.limits]
wall = "20s"
heap = "32MiB"
[defaults.limits.command_timeouts]
"http.*" = "35s"
"kv.get" = "1s"
[apps.survey]
account = "acme"
javascript = "survey.js"
limits = { heap = "48MiB", command_timeouts = { "kv.get" = "2s" } }
[apps.other]
account = "acme"
javascript = "survey.js"
"""
    config = read(folder, text)
    limits = config.apps["survey"].limits
    assert (limits.wall, limits.heap) == (20, 48 << 20)
    assert limits.command_timeouts == {"http.*": 35, "kv.get": 2}
    assert config.apps["other"].limits.heap == 32 << 20


def test_command_timeouts_go_by_name_then_longest_prefix(folder: Path) -> None:
    """A name beats a prefix, a longer prefix a shorter one; http has 5 s more than its own timeout."""
    text = (
        APP
        + '[apps.survey.limits.command_timeouts]\n"kv.*" = "3s"\n"kv.s*" = "4s"\n"kv.set" = "5s"\n'
    )
    limits = read(folder, text).apps["survey"].limits
    assert [
        limits.command_timeout(name, 30) for name in ("kv.get", "kv.sort", "kv.set", "log.info")
    ] == [
        3,
        4,
        5,
        30,
    ]
    assert limits.command_timeout("http.get", 30) == 35
    assert limits.command_timeout("http.get", 90) == 95


def test_every_error_at_once_with_its_line(folder: Path) -> None:
    """One run of the checker names everything that is wrong, where, what came and what is allowed."""
    text = """version = 1
data_dirr = "x"
[listen]
gateway = "nowhere"
[defaults.limits]
wall = 10
[defaults.pool]
max_processes = 0
[apps.survey]
account = "acme"
javascript = "nope.js"
[apps.second]
account = "ac me"
javascript = "survey.js"
modules = [
  "lodash",
  "fs",
]
limits = { heapp = "1MiB", jit = "yes" }
config = { n = 5 }
[apps.third]
account = "acme"
javascript = "survey.js"
timezone = "Mars/Olympus"
endpoints = { sms = "bulk" }
http = { allow = ["*.ok.org", "http://x"] }
[channels.phone]
app = "nobody"
tokens = ["abc"]
[channels."bad name"]
"""
    found = errors(folder, text)
    bundled = (
        "(assert, buffer, crypto, events, path, querystring, string_decoder, timers, url, util)"
    )
    assert found == [
        "2: data_dirr: unknown key `data_dirr`; did you mean `data_dir`?",
        '4: listen.gateway: expected "host:port", such as "127.0.0.1:8430" or "[::1]:8430", got "nowhere"',
        '6: defaults.limits.wall: expected a duration with its unit, such as "250ms", "10s", "10m", "1h" or "7d", got 10',
        "8: defaults.pool.max_processes: expected an integer of 1 or more, got 0",
        f"11: apps.survey.javascript: cannot read {folder}/nope.js: No such file or directory",
        "13: apps.second.account: the name \"ac me\" may have letters, digits, '.', '_' and '-', 100 at most",
        f'17: apps.second.modules.1: "fs" is neither in modules_dir nor bundled, nor one of Node\'s that apps may have {bundled}',
        "19: apps.second.limits.heapp: unknown key `heapp`; did you mean `heap`?",
        '19: apps.second.limits.jit: expected true or false, got "yes"',
        '20: apps.second.config.n: expected a string or { file = "path" }, got 5',
        '24: apps.third.timezone: expected a time zone such as "Africa/Johannesburg", got "Mars/Olympus"',
        "25: apps.third.endpoints.sms: there is no [channels.bulk]",
        '26: apps.third.http.allow.1: expected a host, "*.host", an address or a CIDR, with an optional ":port", got "http://x"',
        "28: channels.phone.app: there is no [apps.nobody]",
        "29: channels.phone.tokens.0: expected the SHA-256 of a token as 64 lower-case hex digits",
        "30: channels.bad name: the name \"bad name\" may have letters, digits, '.', '_' and '-', 100 at most",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = ", "1: not valid TOML"),
        ("version = 2", "1: version: expected 1, got 2"),
        ("version = true", "1: version: expected 1, got true"),
        ("listen = 5", "1: listen: expected a table, got 5"),
        ('[redis]\nurl = "mysql://x"', '2: redis.url: expected embedded, redis://, rediss://, unix:// or redis+cluster://, got "mysql://x"'),
        ('[redis]\nfsync = "no"', '2: redis.fsync: expected "everysec" or "always", got "no"'),
        ('[isolation]\nlevel = "max"', '2: isolation.level: expected "strict" or "standard" or "none", got "max"'),
        ('[listen]\nadmin = "0.0.0.0:1"', "2: listen.admin: 0.0.0.0:1 can be reached from other hosts: set listen.admin_tokens, listen.certificate, listen.key first"),
        ('[listen]\ngateway = "127.0.0.1:5"\nadmin = "127.0.0.1:5"', "3: listen.admin: 127.0.0.1:5 is the gateway's address too"),
        ('[apps.survey]\njavascript = "survey.js"', "1: apps.survey: the key `account` is missing"),
        ('[apps.survey]\naccount = "a"', "1: apps.survey: the key `javascript` is missing"),
        (APP + 'javascripts = "x"', "5: apps.survey.javascripts: unknown key `javascripts`; did you mean `javascript`?"),
        (APP + "modules = [5]", "5: apps.survey.modules: expected a list of strings, got [5]"),
        (APP + 'modules = ["lodash",\n "fs"]', '6: apps.survey.modules.1: "fs" is neither in modules_dir nor bundled'),
        (APP + 'modules = ["../x"]', '5: apps.survey.modules.0: "../x" is neither'),
        (APP + 'modules_dir = "nowhere"', "5: apps.survey.modules_dir: "),
        (APP + 'timezone = "Mars/Olympus"', '5: apps.survey.timezone: expected a time zone such as "Africa/Johannesburg"'),
        (APP + 'globals = ["process"]', '5: apps.survey.globals: expected "Buffer", got "process"'),
        (APP + 'events = "some"', '5: apps.survey.events: expected "app" or "always" or "never", got "some"'),
        (APP + 'delivery_class = "pigeon"', "5: apps.survey.delivery_class: expected one of"),
        (APP + 'endpoints = { sms = "bulk" }', "5: apps.survey.endpoints.sms: there is no [channels.bulk]"),
        (APP + 'config = { a = { file = "no.json" } }', "5: apps.survey.config.a.file: cannot read"),
        (APP + "config = { a = 5 }", '5: apps.survey.config.a: expected a string or { file = "path" }, got 5'),
        (APP + 'limits = { heap = "64MB" }', "5: apps.survey.limits.heap: expected a size with its unit"),
        (APP + 'limits = { heap = "1MiB" }', "5: apps.survey.limits.heap: Node does not start with less than 8MiB"),
        (APP + 'limits = { memory = "100MiB" }', "5: apps.survey.limits.memory: Node needs 96MiB beside its heap: expected at least 160MiB"),
        (APP + 'limits = { stack = "2MiB" }', "5: apps.survey.limits.stack: expected at most 1920KiB, got 2048KiB"),
        (APP + "limits = { open_files = 10 }", "5: apps.survey.limits.open_files: Node needs 22 or more, got 10"),
        (APP + "limits = { commands = true }", "5: apps.survey.limits.commands: expected an integer of 1 or more, got true"),
        (APP + "limits = { commands = 1.5 }", "5: apps.survey.limits.commands: expected an integer of 1 or more, got 1.5"),
        (APP + 'limits = { line = "2MiB" }', "5: apps.survey.limits.line: a line of 2097152 bytes can never fit limits.output"),
        (APP + 'http = { allow = ["http://x"] }', "5: apps.survey.http.allow.0: expected a host"),
        (APP + 'http = { connect_to = { "a.org" = "b" } }', "5: apps.survey.http.connect_to.a.org: expected a URL"),
        (APP + 'metrics = { graphite = "x" }', '5: apps.survey.metrics.graphite: expected "host:port"'),
        (APP + "log = { kept = 0 }", "5: apps.survey.log.kept: expected an integer of 1 or more, got 0"),
        (APP + "pool = { min_idle = -1 }", "5: apps.survey.pool.min_idle: expected an integer of 0 or more, got -1"),
        ('[defaults.http]\ntimeout = "0s"\n' + APP, '2: defaults.http.timeout: expected more than zero, got "0s"'),
        ("[defaults.limit]\n", "1: defaults.limit: unknown key `limit`; did you mean `limits`?"),
        ("[accounts.a]\nkv = { keys_hard = 0 }", "2: accounts.a.kv.keys_hard: expected an integer of 1 or more, got 0"),
        ('[channels.x]\ntype = "carrier"', '2: channels.x.type: expected "websocket", got "carrier"'),
        ('[channels.x]\ntokens = ["secret"]', "2: channels.x.tokens.0: expected the SHA-256 of a token"),
        ('[channels."x:y"]', "1: channels.x:y: the name"),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_has_its_message(folder: Path, text: str, expected: str) -> None:
    """What is wrong, where, what came, what is allowed."""
    found = errors(folder, text)
    assert len(found) == 1, found
    assert found[0].startswith(expected), found


def test_a_broken_piece_does_not_hide_errors_elsewhere(folder: Path) -> None:
    """Errors of shape in one app, and of meaning in another, are told together; no error follows
    from another.
    """
    text = (
        APP
        + 'limits = { wall = 5 }\n[apps.two]\naccount = "a"\njavascript = "survey.js"\ntimezone = "x"\n'
        + CHANNEL
    )
    assert [line.split(":")[0] for line in errors(folder, text)] == ["5", "9"]


def test_environment_variables_are_put_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${NAME} in any string; $$ is a dollar; one that is not set is an error; values are not shown."""
    monkeypatch.setenv("JSBOX_TEST_HOST", "10.0.0.9")
    config = read(
        folder,
        '[redis]\nurl = "redis://${JSBOX_TEST_HOST}/1"\n'
        + APP
        + 'config = { a = "$$5 ${JSBOX_TEST_HOST}" }',
    )
    assert config.redis.url == "redis://10.0.0.9/1"
    assert config.apps["survey"].config == {"a": "$5 10.0.0.9"}
    assert errors(folder, '[redis]\nurl = "redis://${JSBOX_NOT_SET}"') == [
        '2: redis.url: the environment has no variable JSBOX_NOT_SET, which "redis://${JSBOX_NOT_SET}" asks for'
    ]
    monkeypatch.setenv("JSBOX_SECRET", "hunter2")
    (found,) = errors(folder, '[redis]\nurl = "mysql://${JSBOX_SECRET}"')
    assert "hunter2" not in found
    assert '"mysql://${JSBOX_SECRET}"' in found


def test_paths_start_at_the_folder_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the folder that the command was called in."""
    monkeypatch.chdir("/")
    config = read(folder, 'data_dir = "data"\n' + APP)
    assert config.data_dir == folder / "data"
    assert config.apps["survey"].javascript == folder / "survey.js"


def test_files_that_cannot_be_text_are_refused(folder: Path) -> None:
    """A config or an app that is not UTF-8, and one that is not there."""
    (folder / "survey.js").write_bytes(b"\xff\xfe")
    assert errors(folder, APP) == [
        f"4: apps.survey.javascript: cannot read {folder}/survey.js: it is not UTF-8 text"
    ]
    (folder / "jsbox.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidConfig, match="not UTF-8"):
        load(folder / "jsbox.toml")
    with pytest.raises(InvalidConfig, match="No such file"):
        load(folder / "nothing.toml")


def test_modules_dir_packages_may_be_named(folder: Path) -> None:
    """Packages of the app's own, scoped ones and sub-paths too."""
    for name in ("own", "@scope/pkg"):
        (folder / "node_modules" / name).mkdir(parents=True)
    modules = '["own", "own/lib/x", "@scope/pkg", "lodash", "crypto"]'
    config = read(folder, APP + f'modules_dir = "node_modules"\nmodules = {modules}')
    assert config.apps["survey"].modules_dir == folder / "node_modules"


@given(st.floats(0.001, 1e6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_scale_with_their_unit(amount: float, unit: str) -> None:
    """The number times the unit's seconds."""
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(f"{amount:.6f}{unit}") == pytest.approx(float(f"{amount:.6f}") * seconds)


@pytest.mark.parametrize(
    "value", [None, True, 5, 1.5, "", "s", "5", "5 minutes", "-5s", "5s5", "٥s", "1e3s", [], {}]
)
def test_what_has_no_unit_is_no_duration(value: object) -> None:
    """No guessing."""
    with pytest.raises(ValueError, match="expected"):
        parse_duration(value)
    with pytest.raises(ValueError, match="expected"):
        parse_size(value)


def test_addresses() -> None:
    """Host and port; IPv6 in brackets; loopback is told from the rest."""
    assert str(parse_address("[::1]:80")) == "[::1]:80"
    assert parse_address("[::1]:80").is_loopback
    assert parse_address("localhost:0").is_loopback
    assert not parse_address("10.0.0.1:80").is_loopback
    assert not parse_address("example.org:80").is_loopback
    for bad in ("", ":80", "host", "host:99999", "::1:80", "a b:80", "host:80/x", 80):
        with pytest.raises(ValueError, match="expected"):
            parse_address(bad)


DOCUMENT = '''# a comment with [brackets] and "quotes"
a = 1
"quoted key" = { x = 1, y = [ { z = 2 } ] }
text = """
not = "a key"
[nor.a.table]
"""
literal = \'\'\'
x = 1\'\'\'
[table.sub]   # comment
dotted.key = "#not a comment"
list = [
  "one",   # first
  [2, 3],
  { four = 4 },
]
[[array]]
n = 1
[[array]]
n = 2
[array.inner]
m = 3
'''


def test_every_key_is_located() -> None:
    """Keys of every form of TOML, with the line each begins on."""
    tomllib.loads(DOCUMENT)
    lines = locate(DOCUMENT)
    expected = {
        ("a",): 2, ("quoted key",): 3, ("quoted key", "x"): 3, ("quoted key", "y", 0, "z"): 3, ("text",): 4, ("literal",): 8,
        ("table", "sub"): 10, ("table", "sub", "dotted"): 11, ("table", "sub", "dotted", "key"): 11, ("table", "sub", "list", 0): 13,
        ("table", "sub", "list", 1, 1): 14, ("table", "sub", "list", 2, "four"): 15, ("array", 0, "n"): 18, ("array", 1, "n"): 20,
        ("array", 1, "inner", "m"): 22,
    }  # fmt: skip
    assert {path: lines.get(path) for path in expected} == expected
    assert ("not",) not in lines
    assert ("nor", "a", "table") not in lines


def test_a_reload_says_when_each_change_holds(folder: Path) -> None:
    """Live, for the next process, or not before a restart; and new and removed apps."""
    old = read(folder, APP + 'limits = { wall = "5s" }\n' + CHANNEL)
    (folder / "survey.js").write_text("changed")
    new = read(
        folder,
        '[listen]\nadmin = "127.0.0.1:1"\n' + APP + 'limits = { wall = "6s", heap = "65MiB" }\nevents = "always"\n'
        + CHANNEL + "[accounts.acme]\ncan_manage_optouts = true\n" + APP.replace("survey]", "two]"),
    )  # fmt: skip
    changes = plan(old, new)
    assert changes["restart"] == ["listen.admin"]
    assert changes["next_process"] == [
        "apps.survey.limits.heap",
        "apps.survey.javascript (its text)",
    ]
    assert sorted(changes["live"]) == [
        "accounts.acme",
        "apps.survey.events",
        "apps.survey.limits.wall",
        "apps.two (new)",
    ]
    assert plan(new, new) == {"live": [], "next_process": [], "restart": []}
    assert plan(new, old)["live"][-1] == "apps.two (removed)"


def test_a_process_is_replaced_when_what_it_was_started_with_changes() -> None:
    """The generation depends on the code and on per-process limits, not on what holds per run."""
    from attrs import evolve

    app = App("a", "acct", Path("a.js"), source="x")
    assert evolve(app, limits=evolve(app.limits, wall=1)).generation == app.generation
    assert evolve(app, source="y").generation != app.generation
    assert evolve(app, limits=evolve(app.limits, heap=1 << 25)).generation != app.generation
