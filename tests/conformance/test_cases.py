"""Every conformance case of the resources that are there, black-box: through gateway, sandbox and
store of a real server.
"""

from __future__ import annotations

import json
import re
import socketserver
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import getitem
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
import trio
from attrs import define, field

from ..echo_server import echo_server
from ..gateway_client import PATIENCE, Client, connect
from ..programs import Server, serve
from .matching import mismatch, put_in

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "cases.json").read_text())
FOREIGN = {
    "id": "foreign",
    "account": {"can_manage_optouts": True},
    "steps": [
        {
            "cmd": "groups.get_or_create_by_name",
            "fields": {"name": "foreign group"},
            "save": {"group": "group.key"},
        },
        {
            "cmd": "contacts.new",
            "fields": {"contact": {"msisdn": "+27999999999", "groups": ["${group}"]}},
            "save": {"contact": "contact.key"},
        },
        {"cmd": "kv.set", "fields": {"key": "secret", "value": "foreign"}},
        {
            "cmd": "optout.optout",
            "fields": {
                "address_type": "msisdn",
                "address_value": "+27999999999",
                "message_id": "m",
            },
        },
    ],
}
"""What another account has."""
INBOUND = {
    "from_addr": "+27831234567",
    "to_addr": "8181",
    "content": "hello",
    "transport_name": "ussd_transport",
    "transport_type": "ussd",
    "session_event": "resume",
    "group": None,
    "helper_metadata": {},
}


@define
class Graphite:
    """A Graphite that keeps the lines it is sent."""

    port: int
    lines: list[str] = field(factory=list)

    async def wait_for(self, prefix: str, count: int) -> list[tuple[str, str, str, float]]:
        """The (store, metric, agg, value) published under a prefix, once there are `count`; if that
        is 0, after a second in which some could come.
        """
        with trio.move_on_after(6):
            while len(self.find(prefix)) < count:
                await trio.sleep(0.05)
        await trio.sleep(0 if count else 1.2)
        return self.find(prefix)

    def find(self, prefix: str) -> list[tuple[str, str, str, float]]:
        found = []
        for line in list(self.lines):
            path, value, _ = line.split()
            if match := re.fullmatch(re.escape(prefix) + r"\.stores\.(.+)\.([^.]+)", path):
                found.append((match[1], match[2], path, float(value)))
        return found


@pytest.fixture(scope="module")
def graphite() -> Iterator[Graphite]:
    sink = Graphite(0)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                sink.lines.append(line.decode().strip())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        sink.port = server.server_address[1]
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield sink
        server.shutdown()


@pytest.fixture(scope="module")
def http_url() -> Iterator[str]:
    with echo_server() as url:
        yield url


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, graphite: Graphite, http_url: str
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("conformance")
    config = folder / "jsbox.toml"
    parts = [
        "version = 1",
        '[listen]\ngateway = "127.0.0.1:0"\nadmin = "127.0.0.1:0"',
        '[defaults.pool]\nidle_stop = "2s"',
    ]
    parts += [
        _case_config(index, case, folder, graphite.port, http_url)
        for index, case in enumerate((*CASES, FOREIGN))
    ]
    config.write_text("\n".join(parts))
    with serve(config) as running:
        yield running


def _case_config(
    index: int, case: dict[str, Any], folder: Path, graphite: int, http_url: str
) -> str:
    """An account, an app and a channel of the case's own."""
    given = case["account"]
    name = f"c{index}"
    names = {
        "account.key": f"acct{index}",
        "conversation.key": name,
        "other.key": f"{name}-other",
        "foreign.conversation_key": f"c{len(CASES)}",
        "http": http_url,
    }
    values = given.get("config", {"config": '{"name": "conformance"}'})
    values = {**values, "case_steps": json.dumps(case["steps"]), "case_names": json.dumps(names)}
    for key, text in values.items():
        (folder / f"{name}.{key}").write_text(text)
    endpoints = {"default": name, "sms": name, "pool1:1234": name, "pool2:1234": name}
    quota = {"keys_hard": given.get("keys_per_user_hard", 100)}
    if "keys_per_user_soft" in given:
        quota["keys_soft"] = given["keys_per_user_soft"]

    def table(items: dict[str, Any]) -> str:
        return (
            "{ "
            + ", ".join(f"{json.dumps(key)} = {_toml(value)}" for key, value in items.items())
            + " }"
        )

    return f"""
[accounts.acct{index}]
kv = {table(quota)}
can_manage_optouts = {_toml(given.get("can_manage_optouts", False))}
[apps.{name}]
account = "acct{index}"
javascript = {_toml(str(HERE / "driver.js"))}
modules = ["timers"]
config = {table({key: {"file": f"{name}.{key}"} for key in values})}
endpoints = {table(endpoints)}
allowed_helper_metadata = {_toml(given.get("allowed_helper_metadata", []))}
delivery_class = {_toml(given.get("delivery_class", ""))}
[apps.{name}.http]
allow = ["127.0.0.0/8"]
timeout = "{given.get("http_timeout", 30)}s"
response_max = "{given.get("http_data_limit", 131072)}B"
[apps.{name}.metrics]
graphite = "127.0.0.1:{graphite}"
bucket = "1s"
[channels.{name}]
app = "{name}"
[apps.{name}-other]
account = "acct{index}"
javascript = {_toml(str(HERE / "seed.js"))}
config = {table({"seed": json.dumps(given.get("other_store", {}).get("outbound", []))})}
endpoints = {{ default = "{name}-other" }}
[channels.{name}-other]
app = "{name}-other"
"""


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
            + " }"
        )
    return json.dumps(value)


@define
class Steps:
    """What a case's run left: the replies, the known names, and per step the log entries and the
    outbound messages.
    """

    replies: list[Any]
    names: dict[str, Any]
    logs: list[list[dict[str, str]]]
    sent: list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def foreign(server: Server) -> dict[str, str]:
    """The keys of the other account's contact and group."""

    async def make() -> dict[str, str]:
        app = f"c{len(CASES)}"
        async with connect(server.gateway, app) as client:
            await _run(FOREIGN, client, server, app)
            steps = await _collect(server, app, client, len(FOREIGN["steps"]))
        assert all(reply["success"] for reply in steps.replies), steps.replies
        return {
            "foreign.contact_key": steps.names["contact"],
            "foreign.group_key": steps.names["group"],
        }

    return trio.run(make)


async def _seed(case: dict[str, Any], server: Server, name: str) -> None:
    """What the account's other conversation has had: messages as old as the case says, then its own
    sends, then events.
    """
    store = case["account"].get("other_store", {})
    assert "store" not in case["account"]
    if not store:
        return
    sent = sum(row.get("count", 1) for row in store.get("outbound", []))
    async with connect(server.gateway, name) as client:
        for row in store.get("inbound", []):
            moment = datetime.now(UTC) - timedelta(seconds=row.get("age", 0))
            for _ in range(row.get("count", 1)):
                await client.say(
                    "seed",
                    from_addr=row["from_addr"],
                    timestamp=moment.isoformat(" ").removesuffix("+00:00"),
                )
        if sent:
            async with httpx2.AsyncClient(
                base_url=server.admin, trust_env=False, timeout=PATIENCE
            ) as admin:
                assert (
                    await admin.post(f"/v1/apps/{name}/push", json={"addrs": ["seed"]})
                ).status_code == 200
            await client.expect("outcome", outcome="ok")


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case["id"] for case in CASES])
async def test_case(
    index: int, server: Server, graphite: Graphite, foreign: dict[str, str]
) -> None:
    """The replies, the messages sent, the metrics and the log of each step are as the case says."""
    case = CASES[index]
    await _seed(case, server, f"c{index}-other")
    async with connect(server.gateway, f"c{index}") as client:
        await _run(case, client, server, f"c{index}", foreign)
        steps = await _collect(server, f"c{index}", client, len(case["steps"]))
    names = dict(steps.names)
    for number, step in enumerate(case["steps"]):
        if "sleep" in step:
            continue
        reply = steps.replies[number]
        # a later step may save another value under the same name
        for name, path in step.get("save", {}).items():
            names[name] = reduce(getitem, path.split("."), reply)
        where = f"{case['id']} step {number} {step['cmd']}"
        assert reply["cmd"] == step["cmd"], where
        assert reply["reply"] is True, where
        assert isinstance(reply["cmd_id"], str), where
        assert (problem := mismatch(put_in(step["expect"], names), reply, names)) is None, (
            f"{where}: {problem}"
        )
        _check_sent(step, steps.sent[number], names, where)
        _check_logs(step, steps.logs[number], names, where)
    await _check_metrics(case, graphite, f"go.campaigns.acct{index}")


async def _run(
    case: dict[str, Any],
    client: Client,
    server: Server,
    app: str,
    names: dict[str, str] | None = None,
) -> None:
    given = dict(case["account"].get("inbound", {}))
    if given.pop("push_trigger", False):
        async with httpx2.AsyncClient(
            base_url=server.admin, trust_env=False, timeout=PATIENCE
        ) as admin:
            answer = await admin.post(f"/v1/apps/{app}/push", json={"addrs": [given["from_addr"]]})
        assert answer.status_code == 200, answer.text
        await client.expect("outcome", outcome="ok")
        return
    endpoint = given.pop("endpoint", None)
    message = INBOUND | given
    # The keys of what only exists since the server runs come with the message, not with the config.
    message["helper_metadata"] = message["helper_metadata"] | {"case_names": names or {}}
    event = message.pop("session_event")
    outcome, _ = await client.say(message.pop("content"), event, endpoint=endpoint, **message)
    assert outcome["outcome"] in ("ok", "no_reply"), outcome


async def _collect(server: Server, app: str, client: Client, count: int) -> Steps:
    async with httpx2.AsyncClient(
        base_url=server.admin, trust_env=False, timeout=PATIENCE
    ) as admin:
        entries = (await admin.get(f"/v1/apps/{app}/logs", params={"limit": 1000})).json()[
            "entries"
        ][::-1]
    results, logs, starts = "", [[] for _ in range(count)], []
    for entry in entries:
        if entry["message"].startswith("RESULTS "):
            results += entry["message"].removeprefix("RESULTS ")
        elif entry["message"].startswith("STEP "):
            starts.append(entry["time"].replace("T", " "))
        elif starts and len(starts) <= count:
            logs[len(starts) - 1].append(entry)
    found = json.loads(results)
    sent: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for frame in client.frames:
        if frame["type"] == "outbound":
            step = sum(start <= frame["msg"]["timestamp"] for start in starts) - 1
            sent[step].append(frame["msg"])
    return Steps(found["replies"], found["names"], logs, sent)


def _check_sent(
    step: dict[str, Any], sent: list[dict[str, Any]], names: dict[str, Any], where: str
) -> None:
    if "sent" not in step:
        return
    assert len(sent) == len(step["sent"]), f"{where}: sent {sent}"
    for expected, message in zip(put_in(step["sent"], names), sent, strict=True):
        actual = message | {"endpoint": message["routing_metadata"].get("endpoint_name")}
        assert (problem := mismatch(expected, actual, names)) is None, f"{where}: {problem}"


def _check_logs(
    step: dict[str, Any], logs: list[dict[str, str]], names: dict[str, Any], where: str
) -> None:
    def has(wanted: dict[str, str]) -> bool:
        pattern = put_in(wanted["regex"], names)
        return any(
            entry["level"] == wanted["level"] and re.search(pattern, entry["message"])
            for entry in logs
        )

    for wanted in step.get("logs", []):
        assert has(wanted), f"{where}: expected {wanted} in {logs}"
    for unwanted in step.get("no_logs", []):
        assert not has(unwanted), f"{where}: did not expect {unwanted} in {logs}"


async def _check_metrics(case: dict[str, Any], graphite: Graphite, prefix: str) -> None:
    wanted = [metric for step in case["steps"] for metric in step.get("metrics", [])]
    if not any("metrics" in step for step in case["steps"]):
        return
    published = await graphite.wait_for(prefix, len(wanted))
    assert len(published) == len(wanted), published
    left = Counter()
    for metric in wanted:
        store, aggregate = metric.get("store", "default"), metric.get("agg", "sum")
        ending = f".stores.{store}.{metric['metric']}.{aggregate}"
        found = [value for _, _, path, value in published if path == prefix + ending]
        left[ending] += 1
        assert len(found) == left[ending], f"{ending} in {published}"
        if "value" in metric:
            assert metric["value"] in found
