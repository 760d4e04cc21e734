"""Loading a valid config file: defaults, inheritance, variables, units, lines, reloads."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import InvalidConfig, load
from supervisor.config.locate import locate
from supervisor.config.model import App
from supervisor.config.plan import plan
from supervisor.config.units import parse_address, parse_duration, parse_size

from .reading import APP, CHANNEL, errors, read


def test_the_smallest_config_has_the_documented_defaults(folder: Path) -> None:
    """Missing values get the documented defaults."""
    config = read(folder, APP + CHANNEL)
    app = config.apps["survey"]
    assert str(config.listen.gateway) == "127.0.0.1:8430"
    assert str(config.listen.admin) == "127.0.0.1:8420"
    assert config.data_dir == folder / "jsbox-data"
    redis, pool, limits, http = config.redis, app.pool, app.limits, app.http
    assert (redis.url, redis.fsync) == ("embedded", "everysec")
    assert config.isolation.level == "standard"
    assert (pool.min_idle, pool.max_processes) == (0, 4)
    assert (pool.max_messages, pool.max_age) == (1000, 3600)
    assert (pool.idle_stop, pool.queue) == (600, 1000)
    assert (limits.wall, limits.cpu, limits.boot, limits.command) == (60, 5, 10, 30)
    assert (limits.heap, limits.memory, limits.stack) == (64 << 20, 256 << 20, 864 << 10)
    assert (limits.jit, limits.json_depth) == (False, 64)
    assert (limits.line, limits.output) == (256 << 10, 1 << 20)
    assert (limits.commands, limits.commands_in_flight) == (1000, 32)
    assert (limits.open_files, limits.fallback_reply) == (64, "")
    assert (http.allow, http.timeout, http.response_max, http.redirects) == ((), 30, 128 << 10, 20)
    assert (app.log.kept, app.metrics.graphite) == (1000, None)
    assert (app.metrics.prefix, app.metrics.bucket) == ("go.campaigns", 60)
    assert app.modules == ("vumigo_v02", "lodash", "moment", "q", "jed")
    assert (app.timezone, app.globals) == ("UTC", ("Buffer",))
    assert (app.events, app.delivery_class) == ("app", "")
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
    """A name beats a prefix, a longer prefix a shorter one; http gets 5 s more than its timeout."""
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


def test_environment_variables_are_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${NAME} works in any string; $$ is a dollar; an unset one is an error; values stay hidden."""
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
        (
            "2: redis.url: the environment has no variable JSBOX_NOT_SET, which"
            ' "redis://${JSBOX_NOT_SET}" asks for'
        )
    ]
    monkeypatch.setenv("JSBOX_SECRET", "hunter2")
    (found,) = errors(folder, '[redis]\nurl = "mysql://${JSBOX_SECRET}"')
    assert "hunter2" not in found
    assert '"mysql://${JSBOX_SECRET}"' in found


def test_paths_start_at_the_folder_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not depend on the working directory."""
    monkeypatch.chdir("/")
    config = read(folder, 'data_dir = "data"\n' + APP)
    assert config.data_dir == folder / "data"
    assert config.apps["survey"].javascript == folder / "survey.js"


def test_files_that_cannot_be_text_are_refused(folder: Path) -> None:
    """A config or an app that is not UTF-8, and a missing config."""
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
    """Its own packages, also scoped ones and sub-paths."""
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
def test_a_duration_or_size_needs_its_unit(value: object) -> None:
    """Units are not guessed."""
    with pytest.raises(ValueError, match="expected"):
        parse_duration(value)
    with pytest.raises(ValueError, match="expected"):
        parse_size(value)


def test_addresses() -> None:
    """Host and port; IPv6 in brackets; loopback is recognised."""
    assert str(parse_address("[::1]:80")) == "[::1]:80"
    assert parse_address("[::1]:80").is_loopback
    assert parse_address("localhost:0").is_loopback
    assert not parse_address("10.0.0.1:80").is_loopback
    assert not parse_address("example.org:80").is_loopback
    assert str(parse_address("0.0.0.0:80").reachable) == "127.0.0.1:80"
    assert str(parse_address("[::]:80").reachable) == "[::1]:80"
    assert str(parse_address("10.0.0.1:80").reachable) == "10.0.0.1:80"
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
    """Keys in every form of TOML have the line on which they begin."""
    tomllib.loads(DOCUMENT)
    lines = locate(DOCUMENT)
    expected = {
        ("a",): 2,
        ("quoted key",): 3,
        ("quoted key", "x"): 3,
        ("quoted key", "y", 0, "z"): 3,
        ("text",): 4,
        ("literal",): 8,
        ("table", "sub"): 10,
        ("table", "sub", "dotted"): 11,
        ("table", "sub", "dotted", "key"): 11,
        ("table", "sub", "list", 0): 13,
        ("table", "sub", "list", 1, 1): 14,
        ("table", "sub", "list", 2, "four"): 15,
        ("array", 0, "n"): 18,
        ("array", 1, "n"): 20,
        ("array", 1, "inner", "m"): 22,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert ("not",) not in lines
    assert ("nor", "a", "table") not in lines


def test_a_reload_says_when_each_change_takes_effect(folder: Path) -> None:
    """Live, with the next process, or after a restart; new and removed apps are live."""
    old = read(folder, APP + 'limits = { wall = "5s" }\n' + CHANNEL)
    (folder / "survey.js").write_text("changed")
    new = read(
        folder,
        '[listen]\nadmin = "127.0.0.1:1"\n'
        + APP
        + 'limits = { wall = "6s", heap = "65MiB" }\nevents = "always"\n'
        + CHANNEL
        + "[accounts.acme]\ncan_manage_optouts = true\n"
        + APP.replace("survey]", "two]"),
    )
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
    assert evolve(app, account="other").generation != app.generation
    assert evolve(app, limits=evolve(app.limits, heap=1 << 25)).generation != app.generation
