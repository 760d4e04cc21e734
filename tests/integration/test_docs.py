"""The documentation is true: every example of docs/resources.md runs, and logs what it says; every
command is in it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trio
from attrs import fields

from supervisor.cli.types import RESOURCES
from supervisor.config.accounts import KvQuota
from supervisor.config.model import (
    CHANNEL_SIDES,
    Account,
    AmqpSide,
    App,
    Channel,
    Config,
    HttpSide,
)
from supervisor.operating import admin_services

from ..echo_server import echo_server
from ..gateway_client import PATIENCE, connect
from ..programs import Server, serve
from ..service import Folder, running

INBOUND = {
    "from_addr": "+27831234567",
    "to_addr": "8181",
    "content": "hello",
    "session_event": "new",
}
DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "resources.md").read_text("utf-8")
EXAMPLES = re.findall(r"^### (\S.*?)\n.*?^```js\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_command_is_documented_and_no_other() -> None:
    """The headings are the tables of the resources."""
    documented = {
        name.strip()
        for heading in re.findall(r"^### (.*)$", TEXT, re.MULTILINE)
        for name in heading.split(",")
    }
    assert documented == {name for resource in RESOURCES for name in resource.COMMANDS}
    assert len(EXAMPLES) == len(re.findall(r"^### ", TEXT, re.MULTILINE))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with each example as an app of an account of its own."""
    folder = Folder(tmp_path_factory.mktemp("docs"))
    folder.text += '[gateway]\ndrain = "1s"\n'  # no run of an example ends by itself
    with echo_server() as url:
        for number, (_, example) in enumerate(EXAMPLES):
            name = f"e{number}"
            more = (
                'config = { greeting = "hi" }\nlimits = { wall = "120s" }\n'
                'pool = { idle_stop = "2s" }\n'
                f'endpoints = {{ default = "{name}", sms = "{name}",'
                f' "vumi_long:default10001" = "{name}" }}\n'
                f'http = {{ connect_to = {{ "service.example.org" = "{url}" }} }}'
            )
            folder.text += f"[accounts.acct{number}]\ncan_manage_optouts = true\n"
            source = f"api.on_inbound_message = function (command) {{\n{example}\n}};"
            folder.app(name, source, more, account=f"acct{number}")
        with serve(folder.config) as server:
            yield server


@pytest.mark.parametrize(
    "number", range(len(EXAMPLES)), ids=[heading.split(",")[0] for heading, _ in EXAMPLES]
)
async def test_an_example_does_what_it_says(number: int, server: Server) -> None:
    """Run as it stands; the log has exactly the lines of its comments, in order."""
    expected = re.findall(r"// => (.*)$", EXAMPLES[number][1], re.MULTILINE)
    assert expected
    async with connect(server.gateway, f"e{number}") as client:
        # An example shows a command, not a whole app: only the end of the service ends its run.
        await client.send({"type": "inbound", "id": "1", "msg": INBOUND})
        lines = await _log(server, f"e{number}", len(expected))
    assert lines == expected


async def _log(server: Server, app: str, count: int) -> list[str]:
    """Wait until the app's log has N lines, then a moment more for those that should not be there;
    return the log.
    """
    async with httpx2.AsyncClient(
        base_url=server.admin, trust_env=False, timeout=PATIENCE
    ) as admin:

        async def lines() -> list[str]:
            entries = (await admin.get(f"/v1/apps/{app}/logs")).json()["entries"]
            return [entry["message"] for entry in reversed(entries)]

        with trio.move_on_after(PATIENCE):
            while len(await lines()) < count:
                await trio.sleep(0.02)
        await trio.sleep(0.05)
        return await lines()


def test_the_shown_config_is_the_default_config(tmp_path: Path) -> None:
    """docs/config.md: the file loads, and its values are those of a file that says nothing."""
    from supervisor.config import load

    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS / "config.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "apps").mkdir()
    for name in ("survey.js", "survey.json", "af.json"):
        (tmp_path / "apps" / name).write_text("{}")
    (tmp_path / "jsbox.toml").write_text(text)
    shown = load(tmp_path / "jsbox.toml")
    app = '[accounts.acme]\n[apps.survey]\naccount = "acme"\njavascript = "apps/survey.js"\n'
    app += 'limits = { heap = "48MiB" }\n'
    config = (
        '[apps.survey.config]\ngreeting = "hi"\nconfig = { file = "apps/survey.json" }\n'
        '"translation.af" = { file = "apps/af.json" }\n'
    )
    endpoints = (
        '[apps.survey.endpoints]\ndefault = "phone"\nsms = "bulk"\n'
        '"longcode:default10001" = "bulk"\n'
    )
    channels = (
        '[channels.phone]\napp = "survey"\ntransport_type = "ussd"\n'
        '[channels.bulk]\ntype = "amqp"\nname = "sms_transport"\nfrom_addr = "27820001"\n'
        'transport_type = "sms"\n'
        '[channels.partner]\ntype = "http"\napp = "survey"\ntransport_type = "ussd"\n'
        'url = "https://junebug.example.org/jb/channels/2427d857"\nfrom_addr = "*120*1#"\n'
    )
    (tmp_path / "jsbox.toml").write_text(app + config + endpoints + channels)
    plain = load(tmp_path / "jsbox.toml")
    differences = {
        name
        for name in ("listen", "gateway", "redis", "node", "isolation", "channels")
        if getattr(shown, name) != getattr(plain, name)
    }
    assert differences == set()
    assert shown.accounts["acme"].kv.soft == plain.accounts["acme"].kv.soft
    assert shown.apps["survey"] == plain.apps["survey"]


def test_the_shown_channels_load(tmp_path: Path) -> None:
    """docs/gateways.md: each config is valid, with an app."""
    from supervisor.config import load

    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "gateways.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "survey.js").write_text("")
    app = '[accounts.acme]\n[apps.survey]\naccount = "acme"\njavascript = "survey.js"\n'
    for text in blocks:
        (tmp_path / "jsbox.toml").write_text(app + text)
        config = load(tmp_path / "jsbox.toml")
        assert [channel.app for channel in config.channels.values()] == ["survey"], text
        assert not config.warnings, text


def test_every_key_of_the_config_is_documented() -> None:
    """docs/config.md: its tables have every field of the model, and no other."""
    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS / "config.md").read_text("utf-8"), re.DOTALL)
    shown = tomllib.loads(text)
    app, account = shown["apps"]["survey"], shown["accounts"]["acme"]
    assert set(shown) == {
        *_names(Config) - {"file", "warnings", "breakages"},
        "version",
        "defaults",
    }
    for name in ("listen", "gateway", "redis", "node", "isolation", "search", "journal"):
        assert set(shown[name]) == _names(type(getattr(Config(), name))), name
    for name, values in shown["defaults"].items():
        assert set(values) == _names(type(getattr(App("", "", Path()), name))), name
    assert set(app) | {"name", "source", "source_map", *shown["defaults"]} == _names(App)
    assert set(account) == _names(Account)
    assert set(account["kv"]) == _names(KvQuota)
    common = _names(Channel) - {"name", *CHANNEL_SIDES}
    assert set(shown["channels"]["phone"]) == common
    assert set(shown["channels"]["bulk"]) == common - {"tokens"} | _names(AmqpSide)
    assert set(shown["channels"]["partner"]) == common | _names(HttpSide)


def _names(of: type) -> set[str]:
    return {field.name for field in fields(of)}


def test_the_readme_shows_the_defaults() -> None:
    """The table of limits has every limit with its default."""
    from supervisor.config.convert import CONVERTER
    from supervisor.config.model import Limits

    readme = (DOCS.parent / "README.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| (\S+) \|", readme, re.MULTILINE))
    assert set(rows) == {
        name
        for name in Limits.__annotations__
        if name not in ("jit", "fallback_reply", "command_timeouts")
    }
    values = {name: json.loads(value) if value.isdigit() else value for name, value in rows.items()}
    assert CONVERTER.structure(values, Limits) == Limits()


def test_the_readme_has_every_dependency() -> None:
    """Its list says why each package of pyproject.toml is there."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    groups = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(line for group in groups for line in group)]
    names = {re.match(r"[\w-]+", line)[0] for line in needed} - {"jsbox"}
    readme = (DOCS.parent / "README.md").read_text("utf-8").partition("## Dependencies")[2]
    packages = re.findall(r"^\| ([^|]+) \|", readme, re.MULTILINE)
    assert names - set(re.findall(r"[\w-]+", " ".join(packages))) == set()


async def test_every_path_of_the_admin_port_is_documented_and_no_other(tmp_path: Path) -> None:
    """docs/admin.md: the table is the list of routes."""
    from supervisor.admin.app import admin_app
    from supervisor.admin.console import FILES

    text = (DOCS / "admin.md").read_text("utf-8")
    documented = {
        (verb, path)
        for verb, path in re.findall(r"^\| `(GET|POST|DELETE) ([^`? ]+)", text, re.MULTILINE)
    }
    folder = Folder(tmp_path)
    folder.app("phone", "api.done();")
    async with running(folder) as service:
        routes = admin_app(admin_services(service), lambda: ()).routes
    found = set()
    for route in routes:
        path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda name: name[1].upper(), route.path)
        for verb in route.methods - {"HEAD"}:
            if path not in FILES or path == "/":
                found.add((verb, path))
    assert documented == found
