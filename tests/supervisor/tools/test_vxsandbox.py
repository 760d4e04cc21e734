"""Converting a vxsandbox worker's YAML: what each key becomes, and YAML that is hostile."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import load
from supervisor.tools.vxsandbox import CannotMigrate, Migrated, Options, Places, migrate, read_env

from ...programs import jsbox

TOOLKITS = ["vumigo_v02", "lodash", "moment", "q", "jed"]


def convert(text: str, name: str = "x", **more: Any) -> Migrated:
    return migrate(text, Options(name=name, **more))


def tables(text: str, **more: Any) -> dict[str, Any]:
    return tomllib.loads(convert("javascript_file: a.js\n" + text, **more).text)


def worker(modules: list[str]) -> str:
    """A worker's YAML, written as those of deployments are."""
    return f"""
worker_name: jsbox_application
transport_name: clinic_ussd
javascript_file: /srv/go-app-clinic.js
sandbox_id: sandbox7
executable: /usr/bin/node
amqp_prefetch_count: 1
app_context: "{{require: function(m) {{ if ({modules}.indexOf(m) >= 0) return require(m);
  return null; }}, Buffer: Buffer}}"
rlimits:
  RLIMIT_DATA: [67108864, 67108864] # 64 MB
  RLIMIT_STACK: [2097152, 2097152] # 2 MB
  RLIMIT_AS: [268435456, 268435456] # 256 MB
sandbox:
  config:
    cls: vxsandbox.resources.config.FileConfigResource
    keys:
      config: /config/clinic.json
      translation.eng_ZA: /config/empty.json
  http:
    cls: vxsandbox.resources.http.HttpClientResource
  kv:
    cls: vxsandbox.resources.kv.RedisResource
    redis_manager:
      key_prefix: "vumi.jsbox.kv"
      host: 'redis'
      db: 1
    keys_per_user: 550000
  outbound:
    cls: vxsandbox.resources.outbound.OutboundResource
    allowed_helper_metadata:
      - messenger
  metrics:
    cls: vxsandbox.resources.metrics.MetricsResource
    metrics_prefix: 'clinic'
middleware:
  - logging_mw: vumi.middleware.logging.LoggingMiddleware
logging_mw:
  log_level: debug
"""


def test_a_worker_of_a_container_becomes_a_config_that_check_takes(tmp_path: Path) -> None:
    """Files of the container are mapped, modules that nobody has are left out one by one, and the
    broker is that of the environment: nothing is edited by hand.
    """
    modules = [*TOOLKITS, "url", "go-jsbox-location", "go-jsbox-ona", "seed-jsbox-utils"]
    deploy = tmp_path / "deploy"
    deploy.mkdir()
    (deploy / "clinic.yaml").write_text(worker(modules))
    (deploy / "clinic.json").write_text('{"name": "clinic"}')
    (deploy / "empty.json").write_text("{}")
    (deploy / "env").write_text(
        "AMQP_HOST=rabbitmq\nAMQP_VHOST=/clinic\nAMQP_USERNAME=jb\nAMQP_PASSWORD=p@ss/$word\n"
    )
    (tmp_path / "app.js").write_text(
        "var v = require('vumigo_v02'), s = require('seed-jsbox-utils');"
    )
    (tmp_path / "node_modules" / "seed-jsbox-utils").mkdir(parents=True)
    (tmp_path / "node_modules" / "seed-jsbox-utils" / "index.js").write_text("")
    done = jsbox(
        "migrate", "vxsandbox", "deploy/clinic.yaml", "--env-file", "deploy/env",
        "--map", "/config=./deploy", "--map", "/srv/go-app-clinic.js=app.js",
        "--modules-dir", "node_modules", "--transport-type", "ussd", "-o", "jsbox.toml",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    left_out = "left out: it is neither bundled nor in modules_dir, and the app does not require it"
    for name in ("go-jsbox-location", "go-jsbox-ona"):
        assert f"app_context: {name}: {left_out}" in done.stdout
    assert (
        "--redis redis://redis:6379/1 --prefix vumi.jsbox.kv --sandbox-id sandbox7" in done.stdout
    )
    config = load(tmp_path / "jsbox.toml")
    app, channel = config.apps["clinic"], config.channels["clinic_ussd"]
    assert app.modules == (*TOOLKITS, "url", "seed-jsbox-utils")
    assert app.modules_dir == tmp_path / "node_modules"
    assert app.config["config"] == '{"name": "clinic"}'
    assert (channel.type, channel.app, channel.transport_type) == ("amqp", "clinic", "ussd")
    assert channel.amqp is not None
    assert channel.amqp.name == "clinic_ussd"
    assert channel.amqp.url == ("amqp://jb:p%40ss%2F%24word@rabbitmq/%2Fclinic",)
    assert jsbox("check", "-c", "jsbox.toml", cwd=tmp_path).returncode == 0


def test_a_module_that_the_app_requires_is_never_left_out(tmp_path: Path) -> None:
    """It is kept, for check to name, with the command that installs it."""
    (tmp_path / "a.js").write_text("require('go-jsbox-ona')")
    text = "javascript_file: a.js\napp_context: \"{require: function(m) { ['go-jsbox-ona'] }}\""
    made = convert(text, places=Places(tmp_path, tmp_path))
    assert tomllib.loads(made.text)["apps"]["x"]["modules"] == ["go-jsbox-ona"]
    assert any("npm install go-jsbox-ona" in line for line in made.decisions)


def test_node_modules_beside_the_app_are_found(tmp_path: Path) -> None:
    """Without --modules-dir; the path is written relative to the config."""
    (tmp_path / "js" / "node_modules").mkdir(parents=True)
    (tmp_path / "js" / "a.js").write_text("")
    made = convert("javascript_file: js/a.js", places=Places(tmp_path, tmp_path))
    assert tomllib.loads(made.text)["apps"]["x"]["modules_dir"] == "js/node_modules"


def test_the_longest_map_wins_and_maps_whole_names(tmp_path: Path) -> None:
    """/config does not map /configs; a relative path of a container is below /app."""
    places = Places(
        tmp_path,
        tmp_path,
        (("/app", Path("src")), ("/app/lib/", Path("lib")), ("/config", Path("conf"))),
    )
    assert places.find("/app/a.js") == Path("src/a.js")
    assert places.find("a.js") == Path("src/a.js")
    assert places.find("/app/lib/../lib/b.js") == Path("lib/b.js")
    assert places.find("/configs/c.json") == Path("/configs/c.json")


@pytest.mark.parametrize(
    ("text", "environment", "url"),
    [
        ("", {}, None),
        ("", {"AMQP_PORT": "1"}, None),
        ("", {"AMQP_HOST": "mq"}, "amqp://guest:guest@mq/%2F"),
        ("amqp: {hostname: mq, port: 5673, vhost: v}", {}, "amqp://guest:guest@mq:5673/v"),
        ("amqp: {host: '::1'}", {"AMQP_USER": "u"}, "amqp://u:guest@[::1]/%2F"),
        ("amqp_url: amqps://a:b@mq/v", {"AMQP_HOST": "other"}, "amqps://a:b@mq/v"),
    ],
)
def test_where_rabbitmq_is(text: str, environment: dict[str, str], url: str | None) -> None:
    """From the config, then from the variables of the old images; else the default holds."""
    made = tables(f"transport_name: t\n{text}", environment=environment)
    assert made["channels"]["t"].get("url") == url


def test_endpoints_become_connectors_of_their_own() -> None:
    """Those of send_to are for sending only; what it says of messages is the channel's."""
    text = """
transport_name: ussd one
send_to:
  default: {from_addr: "*120#"}
  sms: {transport_name: bulk, transport_type: sms, from_addr: 27820}
  same: {transport_name: ussd one}
"""
    made = tables(text, transport_type="ussd")
    assert made["apps"]["x"]["endpoints"] == {
        "default": "ussd-one",
        "sms": "bulk",
        "same": "ussd-one",
    }
    assert made["channels"] == {
        "ussd-one": {
            "type": "amqp", "app": "x", "transport_type": "ussd", "name": "ussd one",
            "from_addr": "*120#",
        },
        "bulk": {
            "type": "amqp", "app": "", "transport_type": "sms", "name": "bulk",
            "from_addr": "27820",
        },
    }  # fmt: skip


def test_connectors_whose_names_become_the_same_have_channels_of_their_own() -> None:
    """Names that are too long are cut."""
    connectors = ["b" * 100 + end for end in ("", "x", "y")] + ["s/1", "s-1", "s 1"]
    targets = "".join(f"  e{n}: {{transport_name: {one}}}\n" for n, one in enumerate(connectors))
    channels = tables(f"transport_name: ussd\nsend_to:\n{targets}")["channels"]
    assert {one["name"] for one in channels.values()} == {"ussd", *connectors}
    assert all(len(name) <= 100 for name in channels)


def test_a_value_never_names_a_variable() -> None:
    """A dollar sign of the old config is one in the new."""
    text = "sandbox: {metrics: {metrics_prefix: '${HOME}'}}"
    assert tables(text)["apps"]["x"]["metrics"]["prefix"] == "$${HOME}"


HUGE = "-0x" + "f" * 5000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGES = "a0: &a0 {k: 1, l: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "it has more than 10000 values, aliases included"),
        (MERGES, "it has more than 10000 values, aliases included"),
        ("a: &a [*a]", "an alias leads into itself"),
        ("a: " + "[" * 5000, "its values are nested too deeply"),
        ("a: " + "{a: " * 5000, "its values are nested too deeply"),
        ("a: " + "9" * 5000, "it has a value that cannot be read: "),
        ("a: 2001-99-99", "it has a value that cannot be read: "),
        ("timeout: 0x" + "f" * 50_000, "timeout: it has a number of more than 256 bits"),
        (f"rlimits: {{RLIMIT_DATA: [{HUGE}]}}", "rlimits: it has a number of more than 256 bits"),
        (f"amqp: {{host: x, port: {HUGE}}}", "amqp: it has a number of more than 256 bits"),
        (f"transport_name: {HUGE}", "transport_name: it has a number of more than 256 bits"),
        (f"? {HUGE}\n: b", "a key: it has a number of more than 256 bits"),
        ("timeout: .inf", "timeout: expected a whole number of 1 or more, got inf"),
        ('javascript_file: "\\ud800"', "it has a text that is not valid Unicode"),
        ("? [a]\n: b", "it is not YAML: "),
        ("javascript_file: [a]", "javascript_file: expected a text, got ['a']"),
        ("x: " + "y" * 200_000, "expected at most 131072 characters"),
        ("a: !!python/object/apply:os.system ['true']", "it is not YAML: "),
        ('app_context: "{require:function(){' + "} ," * 30_000 + '"', "app_context: expected "),
        ('app_context: "{require:function(){}' + " " * 100_000 + '!"', "app_context: expected "),
        ("transport_name: {a: b}", "transport_name: expected a text, got {'a': 'b'}"),
        ("amqp: [a]", "amqp: expected a mapping, got ['a']"),
        ("amqp: {host: [a], colour: blue}", "amqp.hostname: expected a text, got ['a']"),
        ("send_to: {sms: {from_addr: [1]}}", "send_to.sms.from_addr: expected a text, got [1]"),
        ('sandbox: {config: {keys: {config: "a\\0b"}}}', "sandbox.config.keys.config: expected "),
    ],
)
def test_hostile_yaml_is_refused_in_bounded_time(text: str, said: str) -> None:
    """In CPU time of this thread: what could take minutes or gigabytes takes seconds at most."""
    began = time.thread_time()
    with pytest.raises(CannotMigrate) as caught:
        convert(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 5000
    assert time.thread_time() - began < 10.0


@pytest.mark.parametrize("text", ["a: [", "- a list", "", "app_context: '{require: evil}'"])
def test_what_is_no_worker_says_so(text: str) -> None:
    """YAML that does not parse, another shape, or a context that is not the one that is known."""
    with pytest.raises(CannotMigrate):
        convert(text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("timeout: soon", "timeout: expected a whole number of 1 or more, got 'soon'"),
        ("recv_limit: -5", "recv_limit: expected a whole number of 1024 or more, got -5"),
        ("rlimits: [1]", "rlimits: expected a mapping, got [1]"),
        ("rlimits: {RLIMIT_CPU: lots}", "rlimits.RLIMIT_CPU: expected [soft, hard], got 'lots'"),
        ("sandbox: all", "sandbox: expected a mapping, got 'all'"),
        ("sandbox: {http: 5}", "sandbox.http: expected a mapping, got 5"),
        ("sandbox: {config: {keys: [a]}}", "sandbox.config.keys: expected a mapping, got ['a']"),
        (
            "sandbox: {kv: {keys_per_user: many}}",
            "sandbox.kv.keys_per_user: expected a whole number of 1 or more, got 'many'",
        ),
        (
            "sandbox: {outbound: {allowed_helper_metadata: 7}}",
            "sandbox.outbound.allowed_helper_metadata: expected a list, got 7",
        ),
        ("send_to: x", "send_to: expected a mapping, got 'x'"),
        ("middleware: x", "middleware: expected a list, got 'x'"),
        (
            "messages_per_process: 0",
            "messages_per_process: expected a whole number of 1 or more, got 0",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(line: str, said: str) -> None:
    """Where, what was expected, and what was there."""
    with pytest.raises(CannotMigrate) as caught:
        convert(f"javascript_file: a.js\n{line}\n")
    assert str(caught.value) == said


def test_the_size_of_the_pool_is_kept() -> None:
    """And what is decided is one line each, whatever the names are."""
    made = convert(
        (
            'javascript_file: a.js\nsandbox_id: "a\\nb = 1"\nmessages_per_process:'
            " 1\nmax_sandboxes: 3\n"
        ),
    )
    parsed = tomllib.loads(made.text)
    assert parsed["apps"]["x"]["pool"] == {"max_messages": 1, "max_processes": 3}
    assert parsed.keys() == {"version", "accounts", "apps", "channels"}


def test_queries_in_the_old_language_are_listed() -> None:
    """Phrases in single quotes, which find nobody in this one; each once."""
    text = (
        "javascript_file: a.js\nsandbox: {config: {keys: {config: "
        """"name:'A B' OR name:'A B' OR msisdn:'+27' OR surname:\\"A B\\""}}}\n"""
    )
    said = [line for line in convert(text).decisions if "no phrase" in line]
    assert [line.split()[3] for line in said] == ["name:'A", "msisdn:'+27'"]


def test_the_text_is_toml_whatever_the_names_are() -> None:
    """Quotes, dots and letters beyond ASCII in keys and values."""
    made = convert(
        (
            'javascript_file: "a\\"b.js"\nsandbox: {config: {keys: {"translation.fr_é": "x'
            ' y.json"}}}\n'
        ),
        "my app.é",
    )
    parsed = tomllib.loads(made.text)
    assert parsed["apps"]["my app.é"]["config"] == {"translation.fr_é": {"file": "x y.json"}}


def test_an_env_file_is_read_as_docker_does() -> None:
    """Comments, quotes and `export` are no part of the values."""
    assert read_env("# c\nA=1\nexport B='two words'\n\nC=a=b\n") == {
        "A": "1",
        "B": "two words",
        "C": "a=b",
    }
