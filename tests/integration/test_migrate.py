"""`jsbox migrate`: the configs and the data of old deployments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trio

from supervisor.config import load

from ..gateway_client import connect
from ..programs import jsbox, serve
from ..service import REPLY, Folder
from ..valkey_server import valkey_server

WORKER = """
worker_name: jsbox_application
transport_name: jsbox_public_ussd
javascript_file: go-app-ussd.js
executable: /usr/bin/node
sandbox_id: sandbox1
amqp_prefetch_count: 1
timeout: 30
app_context: "{require: function(m) { if (['vumigo_v02', 'moment', 'url'].indexOf(m) >= 0)
  return require(m); return null; }, Buffer: Buffer}"
rlimits:
  RLIMIT_DATA: [67108864, 67108864]
  RLIMIT_STACK: [2097152, 2097152]
  RLIMIT_AS: [-1, -1]
  RLIMIT_NOFILE: [15, 15]
  RLIMIT_CPU: [60, 60]
logging_resource: log
sandbox:
  config: {cls: vxsandbox.FileConfigResource,
    keys: {config: config/public.json, translation.zul: config/zul.json}}
  log: {cls: vxsandbox.LoggingResource}
  http: {cls: vxsandbox.HttpClientResource, timeout: 20, data_limit: 262144}
  outbound: {cls: vxsandbox.OutboundResource, allowed_helper_metadata: [voice]}
  kv: {cls: vxsandbox.RedisResource, keys_per_user: 550000,
    redis_manager: {key_prefix: vumi.jsbox.kv}}
  metrics: {cls: vxsandbox.MetricsResource, metrics_prefix: mcza}
middleware:
  - logging_mw: vumi.middleware.logging.LoggingMiddleware
logging_mw: {log_level: info}
"""


def test_a_worker_becomes_a_config_that_loads(tmp_path: Path) -> None:
    """Every key is converted or dropped with its reason; the result is valid and says the same."""
    (tmp_path / "public.yaml").write_text(WORKER)
    (tmp_path / "go-app-ussd.js").write_text("api.on_inbound_message = function () {};")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "public.json").write_text('{"name": "public"}')
    (tmp_path / "config" / "zul.json").write_text("{}")
    (tmp_path / "env").write_text("# the container's\nVUMI_OPT_TIMEOUT=25\nAMQP_HOST=rabbit\n")
    command = ("migrate", "vxsandbox", "public.yaml", "--env-file", "env", "-o", "public.toml")
    done = jsbox(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker_name: dropped: it named a heartbeat" in done.stdout
    copying = "jsbox migrate kv sandbox1 --redis URL --prefix vumi.jsbox.kv --sandbox-id sandbox1"
    assert copying in done.stdout
    config = load(tmp_path / "public.toml")
    app = config.apps["public"]
    assert (app.account, app.javascript.name) == ("sandbox1", "go-app-ussd.js")
    assert (app.modules, app.globals) == (("vumigo_v02", "moment", "url"), ("Buffer",))
    assert app.config == {"config": '{"name": "public"}', "translation.zul": "{}"}
    limits = app.limits
    assert (limits.wall, limits.cpu, limits.open_files) == (25.0, 60.0, 22)
    assert (limits.memory, limits.stack) == (160 << 20, 1920 << 10)
    assert (app.http.timeout, app.http.response_max) == (20.0, 262144)
    assert (app.allowed_helper_metadata, app.metrics.prefix) == (("voice",), "mcza")
    assert config.account("sandbox1").kv.keys_hard == 550000
    assert app.endpoints == {"default": "jsbox_public_ussd"}
    channel = config.channels["jsbox_public_ussd"]
    assert (channel.app, channel.type) == ("public", "amqp")
    assert channel.amqp is not None
    assert channel.amqp.name == "jsbox_public_ussd"
    assert channel.amqp.url == ("amqp://guest:guest@rabbit/%2F",)


def test_what_is_not_known_is_refused_whole(tmp_path: Path) -> None:
    """Each such key is named, exit code 3, and nothing is written."""
    text = WORKER + "colour: blue\n"
    text = (
        text.replace("  log: {cls", "  fortune: {cls: my.Fortune}\n  log: {cls")
        .replace("RLIMIT_CPU", "RLIMIT_LUCK")
        .replace("timeout: 20, ", "retries: 3, ")
    )
    (tmp_path / "w.yaml").write_text(
        text.replace("  - logging_mw:", "  - unidecode_mw: my.Unidecode\n  - logging_mw:")
    )
    done = jsbox("migrate", "vxsandbox", "w.yaml", "-o", "w.toml", cwd=tmp_path)
    assert done.returncode == 3
    for name in (
        "colour",
        "sandbox.fortune",
        "rlimits.RLIMIT_LUCK",
        "sandbox.http.retries",
        "middleware.unidecode_mw",
    ):
        assert f"w.yaml: {name}: " in done.stderr
    assert not (tmp_path / "w.toml").exists()


@pytest.fixture
def old(tmp_path: Path) -> Iterator[redis.Redis]:
    folder = tmp_path / "old"
    folder.mkdir()
    with valkey_server(folder) as server:
        client = redis.Redis.from_url(server.url)
        head = "vumi.jsbox.kv:sandboxes#sandbox1#"
        client.set(head + "users.public.+27831234567", '{"state": "town"}', ex=3600)
        client.set(head + "count", "41")
        client.set(head + "broken", "{not json")
        client.set(head + "latin", b'"caf\xe9"')
        client.set(head + "cut", r'"town \ud83d"')
        client.set("vumi.jsbox.kv:sandboxes#sandbox10#count", "7")
        client.set("vumi.jsbox.kv:count#sandbox1", "3")
        yield client
        client.close()


async def test_old_data_is_there_for_the_app(old: redis.Redis, tmp_path: Path) -> None:
    """Values, counters and lifetimes, into a server that runs; again changes nothing; other
    sandboxes and the old server are left alone.
    """
    folder = Folder(tmp_path)
    folder.app(
        "phone",
        (
            "api.request('kv.incr', {key: 'count'}, function (n) { api.request('kv.get', {key:"
            " 'users.public.+27831234567'}, function (r) {"
        )
        + REPLY % "n.value + ' ' + r.value.state"
        + "}); });",
    )
    url = f"unix://{old.connection_pool.connection_kwargs['path']}"
    arguments = (
        "migrate",
        "kv",
        "acct",
        "--redis",
        url,
        "--prefix",
        "vumi.jsbox.kv",
        "--sandbox-id",
        "sandbox1",
        "--json",
        "-c",
        str(folder.config),
    )

    async def run(*more: str) -> dict[str, int]:
        done = await trio.to_thread.run_sync(lambda: jsbox(*arguments, *more))
        assert done.returncode == 1, done.stdout + done.stderr  # two values are no JSON
        assert "'broken' does not hold JSON" in done.stderr
        found: dict[str, int] = json.loads(done.stdout)
        return found

    before = sorted(old.keys())
    assert await run("--dry-run") == {"copied": 3, "kept": 0, "wrong": 2, "full": 0}
    with serve(folder.config) as server:
        assert await run() == {"copied": 3, "kept": 0, "wrong": 2, "full": 0}
        async with connect(server.gateway) as client:
            _, (reply,) = await client.say("hi", "new")
        assert reply["content"] == "42 town"
        assert await run() == {"copied": 0, "kept": 3, "wrong": 2, "full": 0}
        ours = redis.Redis(unix_socket_path=str(tmp_path / "jsbox-data" / "valkey" / "valkey.sock"))
        assert 3500_000 < ours.pttl("jsbox:{acct}:kv:users.public.+27831234567") <= 3600_000
        assert ours.get("jsbox:{acct}:kv:cut") == rb'"town \ufffd"'
        assert ours.zcard("jsbox:{acct}:kvkeys") == 3
        ours.close()
    assert sorted(old.keys()) == before


async def test_an_old_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """And so is an account that the config does not have."""
    folder = Folder(tmp_path)
    folder.app("phone", "api.done();")
    done = await trio.to_thread.run_sync(
        lambda: jsbox(
            "migrate",
            "kv",
            "acct",
            "--redis",
            "redis://127.0.0.1:1",
            "--sandbox-id",
            "x",
            "-c",
            str(folder.config),
        )
    )
    assert (
        done.returncode,
        done.stderr.splitlines()[-1].startswith("jsbox: the old server: "),
    ) == (1, True), done.stderr
    done = await trio.to_thread.run_sync(
        lambda: jsbox(
            "migrate",
            "kv",
            "nobody",
            "--redis",
            "redis://127.0.0.1:1",
            "--sandbox-id",
            "x",
            "-c",
            str(folder.config),
        )
    )
    assert "has no account 'nobody'" in done.stderr


@pytest.mark.parametrize("url", ["nosuch", "redis://host:port", "redis+cluster://host", "http://x"])
def test_a_wrong_url_of_the_old_server_is_one_line(tmp_path: Path, url: str) -> None:
    """It was a traceback."""
    folder = Folder(tmp_path)
    folder.app("phone", "api.done();")
    arguments = ("--redis", url, "--sandbox-id", "x", "-c", str(folder.config))
    done = jsbox("migrate", "kv", "acct", *arguments)
    assert done.returncode == 2, done.stderr
    assert "expected redis://, rediss://, unix://, got " in done.stderr
