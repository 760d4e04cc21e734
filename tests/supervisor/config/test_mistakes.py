"""Mistakes in the config file: each is reported with its line, all of them at once."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from supervisor.config import checks

from .reading import APP, CHANNEL, errors, read

WRONG = """version = 1
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


def test_every_error_at_once_with_its_line(folder: Path) -> None:
    """One check reports everything wrong: where, what was given and what is expected."""
    duration = 'a duration with its unit, such as "250ms", "10s", "10m", "1h" or "7d"'
    name = "may have letters, digits, '.', '_' and '-', 100 at most"
    bundled = (
        "(assert, buffer, crypto, events, path, querystring, string_decoder, timers, url, util)"
    )
    host = 'a host, "*.host", an address or a CIDR, with an optional ":port"'
    assert errors(folder, WRONG) == [
        "2: data_dirr: unknown key `data_dirr`; did you mean `data_dir`?",
        (
            '4: listen.gateway: expected "host:port", such as "127.0.0.1:8430" or "[::1]:8430",'
            ' got "nowhere"'
        ),
        f"6: defaults.limits.wall: expected {duration}, got 10",
        "8: defaults.pool.max_processes: expected an integer of 1 or more, got 0",
        f"11: apps.survey.javascript: cannot read {folder}/nope.js: No such file or directory",
        f'13: apps.second.account: the name "ac me" {name}',
        (
            '17: apps.second.modules.1: "fs" is neither in modules_dir nor bundled, nor one of'
            f" Node's that apps may have {bundled}"
        ),
        "19: apps.second.limits.heapp: unknown key `heapp`; did you mean `heap`?",
        '19: apps.second.limits.jit: expected true or false, got "yes"',
        '20: apps.second.config.n: expected a string or { file = "path" }, got 5',
        (
            '24: apps.third.timezone: expected a time zone such as "Africa/Johannesburg",'
            ' got "Mars/Olympus"'
        ),
        "25: apps.third.endpoints.sms: there is no [channels.bulk]",
        f'26: apps.third.http.allow.1: expected {host}, got "http://x"',
        "28: channels.phone.app: there is no [apps.nobody]",
        "29: channels.phone.tokens.0: expected the SHA-256 of a token as 64 lower-case hex digits",
        f'30: channels.bad name: the name "bad name" {name}',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = ", "1: not valid TOML"),
        ("version = 2", "1: version: expected 1, got 2"),
        ("version = true", "1: version: expected 1, got true"),
        ("listen = 5", "1: listen: expected a table, got 5"),
        (
            '[redis]\nurl = "mysql://x"',
            (
                "2: redis.url: expected embedded, redis://, rediss://, unix://, redis+cluster:// or"
                ' redis+sentinel://, got "mysql://x"'
            ),
        ),
        ('[redis]\nfsync = "no"', '2: redis.fsync: expected "everysec" or "always", got "no"'),
        (
            "[redis]\nreplicas = 1",
            "2: redis.replicas: expected 0: the embedded store has no replicas",
        ),
        (
            '[redis]\nurl = "redis+cluster://x"\nreplicas = 1',
            "3: redis.replicas: expected 0: the embedded store has no replicas",
        ),
        (
            '[cluster]\nmode = "shared"',
            '2: cluster.mode: "shared" needs a store that all its servers can reach',
        ),
        (
            '[cluster]\nmode = "standby"',
            (
                '2: cluster.mode: "standby" needs a store that all its servers can reach:'
                " set redis.url first"
            ),
        ),
        (
            '[redis]\nurl = "redis://x"\n[cluster]\nprocesses = 2',
            (
                "4: cluster.processes: 2 processes share the store at redis.url: set cluster.mode"
                ' to "shared" (it is "single")'
            ),
        ),
        ("[cluster]\nprocesses = 65", "2: cluster.processes: expected 1 to 64, got 65"),
        (
            "[cluster]\nprocesses = 2\n[isolation]\nfirst_user = 2147483600",
            "4: isolation.first_user: expected less than 2147383648",
        ),
        (
            '[cluster]\nlease = "500ms"',
            "2: cluster.lease: expected 1s to 300s, got 0.5s",
        ),
        (
            '[redis]\nurl = "redis://x"\n[cluster]\nmode = "standby"\nlease = "1h"',
            "5: cluster.lease: expected 1s to 300s, got 3600s",
        ),
        (
            '[isolation]\nlevel = "max"',
            '2: isolation.level: expected "strict" or "standard" or "none", got "max"',
        ),
        (
            '[listen]\nadmin = "0.0.0.0:1"',
            (
                "2: listen.admin: 0.0.0.0:1 can be reached from other hosts: set"
                " listen.admin_tokens, listen.certificate, listen.key first"
            ),
        ),
        (
            '[listen]\ngateway = "127.0.0.1:5"\nadmin = "127.0.0.1:5"',
            "3: listen.admin: 127.0.0.1:5 is the gateway's address too",
        ),
        ('[apps.survey]\njavascript = "survey.js"', "1: apps.survey: the key `account` is missing"),
        ('[apps.survey]\naccount = "a"', "1: apps.survey: the key `javascript` is missing"),
        (
            APP + 'javascripts = "x"',
            "5: apps.survey.javascripts: unknown key `javascripts`; did you mean `javascript`?",
        ),
        (APP + "modules = [5]", "5: apps.survey.modules: expected a list of strings, got [5]"),
        (
            APP + 'modules = ["lodash",\n "fs"]',
            '6: apps.survey.modules.1: "fs" is neither in modules_dir nor bundled',
        ),
        (APP + 'modules = ["../x"]', '5: apps.survey.modules.0: "../x" is neither'),
        (APP + 'modules_dir = "nowhere"', "5: apps.survey.modules_dir: "),
        (
            APP + 'timezone = "Mars/Olympus"',
            '5: apps.survey.timezone: expected a time zone such as "Africa/Johannesburg"',
        ),
        (APP + 'globals = ["process"]', '5: apps.survey.globals: expected "Buffer", got "process"'),
        (
            APP + 'events = "some"',
            '5: apps.survey.events: expected "app" or "always" or "never", got "some"',
        ),
        (APP + 'delivery_class = "pigeon"', "5: apps.survey.delivery_class: expected one of"),
        (
            APP + 'endpoints = { sms = "bulk" }',
            "5: apps.survey.endpoints.sms: there is no [channels.bulk]",
        ),
        (
            APP + 'config = { a = { file = "no.json" } }',
            "5: apps.survey.config.a.file: cannot read",
        ),
        (
            APP + "config = { a = 5 }",
            '5: apps.survey.config.a: expected a string or { file = "path" }, got 5',
        ),
        (
            APP + 'limits = { heap = "64MB" }',
            "5: apps.survey.limits.heap: expected a size with its unit",
        ),
        (
            APP + 'limits = { heap = "1MiB" }',
            "5: apps.survey.limits.heap: Node does not start with less than 8MiB",
        ),
        (
            APP + 'limits = { memory = "100MiB" }',
            (
                "5: apps.survey.limits.memory: Node needs 96MiB beside its heap: expected at least"
                " 160MiB"
            ),
        ),
        (
            APP + 'limits = { stack = "2MiB" }',
            "5: apps.survey.limits.stack: expected at most 1920KiB, got 2048KiB",
        ),
        (
            APP + "limits = { open_files = 10 }",
            "5: apps.survey.limits.open_files: Node needs 22 or more, got 10",
        ),
        (
            APP + "limits = { commands = true }",
            "5: apps.survey.limits.commands: expected an integer of 1 or more, got true",
        ),
        (
            APP + "limits = { commands = 1.5 }",
            "5: apps.survey.limits.commands: expected an integer of 1 or more, got 1.5",
        ),
        (
            APP + 'limits = { line = "2MiB" }',
            "5: apps.survey.limits.line: a line of 2097152 bytes can never fit limits.output",
        ),
        (APP + 'http = { allow = ["http://x"] }', "5: apps.survey.http.allow.0: expected a host"),
        (
            APP + 'http = { connect_to = { "a.org" = "b" } }',
            "5: apps.survey.http.connect_to.a.org: expected a URL",
        ),
        (
            APP + 'metrics = { graphite = "x" }',
            '5: apps.survey.metrics.graphite: expected "host:port"',
        ),
        (
            APP + "log = { kept = 0 }",
            "5: apps.survey.log.kept: expected an integer of 1 or more, got 0",
        ),
        (
            APP + "pool = { min_idle = -1 }",
            "5: apps.survey.pool.min_idle: expected an integer of 0 or more, got -1",
        ),
        (
            "[node]\nnice = 20\n" + APP,
            "2: node.nice: expected an integer from 0 to 19, got 20",
        ),
        (
            "[node]\nnice = -1\n" + APP,
            "2: node.nice: expected an integer from 0 to 19, got -1",
        ),
        (
            '[defaults.http]\ntimeout = "0s"\n' + APP,
            '2: defaults.http.timeout: expected more than zero, got "0s"',
        ),
        ("[defaults.limit]\n", "1: defaults.limit: unknown key `limit`; did you mean `limits`?"),
        (
            "[accounts.a]\nkv = { keys_hard = 0 }",
            "2: accounts.a.kv.keys_hard: expected an integer of 1 or more, got 0",
        ),
        (
            '[channels.x]\ntype = "carrier"',
            '2: channels.x.type: expected "websocket" or "amqp" or "http", got "carrier"',
        ),
        (
            '[channels.x]\ntokens = ["secret"]',
            "2: channels.x.tokens.0: expected the SHA-256 of a token",
        ),
        ('[channels."x:y"]', "1: channels.x:y: the name"),
        ('[channels.x]\ntype = "amqp"', "1: channels.x: the key `name` is missing"),
        (
            '[channels.x]\ntype = "amqp"\nname = "x"\nprefetch = 65536',
            "4: channels.x.prefetch: expected at most 65535, got 65536",
        ),
        (
            '[channels.x]\ntype = "amqp"\nname = "x"\nurl = ["amqp://a", "amqp://a/b/c"]',
            (
                '4: channels.x.url.1: expected a URL such as "amqp://USER:PASSWORD@HOST/VHOST",'
                ' got "amqp://a/b/c": expected only a vhost after the host'
            ),
        ),
        (
            '[channels.x]\ntype = "amqp"\nname = "x"\ntokens = []',
            "4: channels.x.tokens: unknown key `tokens`; known: type, app, transport_type, name,",
        ),
        (
            '[channels.x]\ntype = "http"\nurl = "amqp://a"',
            (
                '3: channels.x.url: expected a URL such as "http://junebug:8080/channels/ID",'
                ' got "amqp://a": it is neither http nor https'
            ),
        ),
        ("[channels.x]\nprefetch = 1", "2: channels.x.prefetch: unknown key `prefetch`; known: "),
    ],
)
def test_each_kind_of_mistake_has_its_message(folder: Path, text: str, expected: str) -> None:
    """It says what is wrong, where, what was given and what is expected."""
    found = errors(folder, text)
    assert len(found) == 1, found
    assert found[0].startswith(expected), found


def test_a_broken_piece_does_not_hide_errors_elsewhere(folder: Path) -> None:
    """A wrong type in one app and a wrong value in another are reported together, and no error
    follows from another.
    """
    text = (
        APP
        + (
            'limits = { wall = 5 }\n[apps.two]\naccount = "a"\njavascript = "survey.js"\n'
            'timezone = "x"\n'
        )
        + CHANNEL
    )
    assert [line.split(":")[0] for line in errors(folder, text)] == ["5", "9"]


@pytest.mark.parametrize("code", ['"+27"', '"0"', '"2700"', '"27 "', "27", '"\u0662"', "[]"])
def test_a_country_code_is_a_few_digits(folder: Path, code: str) -> None:
    """In a string, without plus; or empty, which is none."""
    text = APP + CHANNEL + f"[accounts.acme]\ncountry_code = {code}\n"
    line = text.count("\n")
    expected = f'expected 1 to 3 digits, such as "27", or "", got {code}'
    assert errors(folder, text) == [f"{line}: accounts.acme.country_code: {expected}"]


def test_a_collector_needs_a_url_and_the_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK is an extra of the package: without it, a check says what to install."""
    text = 'version = 1\n[otel]\nendpoint = "%s"\n' + APP + CHANNEL
    (wrong,) = errors(folder, text % "collector:4318")
    assert wrong.startswith('3: otel.endpoint: expected a URL such as "http://127.0.0.1:4318"')
    read(folder, text % "https://collector/otlp")
    for odd in ("http://c/a?", "http://c/#", "http://c:4318/v1/metrics", "http://c/v1/logs/"):
        (wrong,) = errors(folder, text % odd)
        assert "otel.endpoint: expected a URL" in wrong, odd
    for form in ("http://ann:%s@c:4318/?x=1", "http://ann:%s/x@c", "http://ann:x@%s#@c", "c:%s@x"):
        (wrong,) = errors(folder, text % (form % "hush"))
        assert "hush" not in wrong, form

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", version)
    read(folder, text % "")
    (missing,) = errors(folder, text % "http://127.0.0.1:4318")
    assert missing == (
        "3: otel.endpoint: needs the package opentelemetry-sdk: pip install 'jsbox[otel]'"
    )


PASSWORDS = (
    "redis://:%s#x@h:6379/0",
    "redis://u:x#%s@h",
    "redis://u:%s?x=1@h",
    "redis://u:%s/x@h",
    "redis://u:%s@h:99999",
    "redis://u:%s\u2100@h",  # Python's own error would have all before the path
    "redis://h?password=x@%s&x=1",
    "redis+sentinel://u:%s/x@h/s",
    "redis+sentinel://u:%s@h:x/s",
    "redis+sentinel://u:%s\u2100@h/s",
    "redis+sentinel://h/s?sentinel_passwd=%s",
    "redis+cluster://u:%s@h/0/",
    "unix://u:%s@/x?db=y",
    "postgres://u:%s@h",
)


@pytest.mark.parametrize("form", PASSWORDS)
def test_no_error_about_the_store_has_its_password(folder: Path, form: str) -> None:
    """Nor a half of one that is not escaped."""
    (wrong,) = errors(folder, f'[redis]\nurl = "{form % "hush"}"\n' + APP + CHANNEL)
    assert wrong.startswith("2: redis.url: expected embedded, ")
    assert "hush" not in wrong


@pytest.mark.parametrize("setting", ["proxy = %s", "connect_to = { h = %s }"])
@pytest.mark.parametrize("url", ["http://u:hush@h:0", "ftp://u:hush@h", "http://u:hush#@h"])
def test_no_error_about_a_proxy_has_its_password(folder: Path, setting: str, url: str) -> None:
    shown = setting % f'"{url}"'
    (wrong,) = errors(folder, APP + f"http = {{ {shown} }}\n" + CHANNEL)
    assert "expected a URL such as" in wrong
    assert "hush" not in wrong
