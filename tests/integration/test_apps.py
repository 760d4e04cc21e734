"""Apps in the styles of real ones, through whole conversations: gateway, sandbox, store and
back.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..echo_server import echo_server
from ..gateway_client import Client, connect
from ..service import Folder, running

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def install(folder: Folder, name: str, more: str = "") -> None:
    folder.app("phone", (APPS / name).read_text() + "// api.on_", more)


async def talk(client: Client, *steps: tuple[str | None, str], **msg: object) -> None:
    """Dial, then type; each step is what is typed (None: dial) and what must be on the screen."""
    for number, (typed, expected) in enumerate(steps):
        outcome, replies = await client.say(typed, "new" if typed is None else "resume", **msg)
        assert outcome["outcome"] == "ok", (typed, outcome)
        assert [reply["content"] for reply in replies] == [expected], typed
        closes = number + 1 < len(steps) and steps[number + 1][0] is None
        if closes:
            assert replies[0]["session_event"] == "close"


async def test_a_vumigo_v01_app(folder: Folder) -> None:
    """A state creator with choices, a free text, a counter in kv; a user who dials again is first
    shown the last state anew (v01's way, so the counter moves once more).
    """
    install(folder, "quiz_v01.js", 'modules = ["vumigo_v01", "jed"]')
    question = "Capital of Botswana?\n1. Windhoek\n2. Gaborone"
    async with running(folder) as service, connect(service.gateway_url) as client:
        await talk(
            client,
            (None, question),
            ("1", question),
            ("nonsense", question),
            ("2", "Right! Your name?"),
            ("Kagiso", "Kagiso, you are number 1."),
            (None, question),
            ("2", "Right! Your name?"),
            ("Ann", "Ann, you are number 3."),
        )


async def test_a_vumigo_v02_app_with_translations_and_config(folder: Folder) -> None:
    """The config's JSON reaches the app, and from the message after the choice every screen is in
    that language (the toolkit loads it at the start of a run); another user's is their own.
    """
    (folder.path / "config.json").write_text(
        json.dumps({"name": "survey", "towns": ["Kuruman", "Upington", "Kimberley", "Prieska"]})
    )
    (folder.path / "af.json").write_bytes((APPS / "af.json").read_bytes())
    install(
        folder,
        "survey_v02.js",
        'config = { config = { file = "config.json" }, "translation.af" = { file = "af.json" } }',
    )
    language = "Choose your language:\n1. English\n2. Afrikaans"
    async with running(folder) as service, connect(service.gateway_url) as client:
        await talk(
            client,
            (None, language),
            ("2", "How old are you?"),
            ("oud", "Gee asseblief 'n getal."),
            ("30", "Waar bly jy?\n1. Kuruman\n2. Upington\n3. Kimberley\n4. More"),
            ("4", "Waar bly jy?\n1. Prieska\n2. Back"),
            ("1", "Omtrent 1990 gebore in Prieska. Dankie!"),
            (None, language),
        )
        await talk(client, (None, language), ("1", "How old are you?"), from_addr="+27839999999")


async def test_a_vumigo_v02_app_with_http_back_ends(folder: Folder) -> None:
    """Two back ends behind connect_to, headers and JSON both ways; when one is gone the app says
    so.
    """
    (folder.path / "config.json").write_text('{"name": "registration", "hub_token": "t0ken"}')
    with echo_server() as url:
        more = (
            f'config = {{ config = {{ file = "config.json" }} }}\nhttp = {{ connect_to = {{'
            f' "hub.example.org" = "{url}", "store.example.org:8080" = "{url}" }} }}'
        )
        install(folder, "registration_http.js", more)
        first = "Registering msisdn=%2B27831234567 with Token t0ken. Name?"
        async with running(folder) as service, connect(service.gateway_url) as client:
            await talk(client, (None, first), ("Thabo", '{"name":"Thabo"} PUT'), (None, first))
            # The store goes away between two screens.
            folder.text = folder.text.replace(
                f'"store.example.org:8080" = "{url}"',
                '"store.example.org:8080" = "http://127.0.0.1:1"',
            )
            _ = folder.config
            assert (await service.reload())["ok"]
            await talk(client, ("Thabo", "Sorry: Connection refused"))


async def test_an_sms_app_that_sends_to_endpoints(folder: Folder) -> None:
    """Sends go out over the channel that the endpoint names, to its own clients, beside the reply
    on the first channel.
    """
    folder.text += '[channels.bulk]\ntransport_type = "sms"\n'
    config = (
        'config = { config = \'{"name": "reminders", "endpoints": {"sms":'
        ' {"delivery_class": "sms"}}}\' }'
    )
    install(
        folder, "reminders_sms.js", f'endpoints = {{ default = "phone", sms = "bulk" }}\n{config}'
    )
    async with (
        running(folder) as service,
        connect(service.gateway_url) as phone,
        connect(service.gateway_url, "bulk") as bulk,
    ):
        outcome, replies = await phone.say("help")
        assert outcome["outcome"] == "ok"
        assert [reply["content"] for reply in replies] == ["got: help"]
        sent = [(await bulk.expect("outbound"))["msg"] for _ in range(2)]
    assert [(m["to_addr"], m["content"]) for m in sent] == [
        ("+27831234567", "copy of: help"),
        ("+27820000000", "supervisor: help"),
    ]
    assert {m["routing_metadata"]["endpoint_name"] for m in sent} == {"sms"}
