"""Messages and events over the gateway, black-box over WebSocket: nothing lost, nothing twice."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from trio_websocket import ConnectionClosed

from supervisor.service import Service

from ...gateway_client import connect
from ...in_turn import in_turn
from ...service import REPLY, Folder, running
from .messages import inbound


async def test_a_message_is_accepted_answered_and_accounted_for(service: Service) -> None:
    """welcome, accepted, outbound, outcome, in order; the outcome after the run's outbounds."""
    async with connect(service.gateway_url) as client:
        await client.send(inbound("m1", session_event="new"))
        await client.expect("outcome", message_id="m1")
        kinds = [frame["type"] for frame in client.frames]
        assert kinds == ["accepted", "outbound"]
        accepted, outbound = client.frames
    assert accepted == {"type": "accepted", "id": "g-m1", "message_id": "m1", "duplicate": False}
    assert (outbound["delivery"], outbound["attempt"]) == (1, 1)
    msg = outbound["msg"]
    assert (msg["content"], msg["in_reply_to"], msg["to_addr"]) == ("you said hi", "m1", "+27")
    assert (msg["transport_name"], msg["transport_type"]) == ("phone", "ussd")


async def test_the_server_fills_in_and_keeps(service: Service, folder: Folder) -> None:
    """Absent fields get their values, unknown ones stay, and metadata comes back in the reply."""
    async with connect(service.gateway_url) as client:
        fields = {
            "transport_metadata": {"session": 7},
            "routing_metadata": {"x": 1},
            "helper_metadata": {"h": 2},
            "provider": "vodacom",
        }
        await client.send(
            {
                "type": "inbound",
                "id": "1",
                "msg": {"content": "hi", "session_event": "new", "own": 5, **fields},
                "endpoint": "other",
            }
        )
        accepted = await client.expect("accepted")
        assert len(accepted["message_id"]) == 32
        reply = (await client.expect("outbound"))["msg"]
    assert reply["transport_metadata"] == {"session": 7}
    assert reply["routing_metadata"] == {"x": 1, "endpoint_name": "other"}
    assert reply["helper_metadata"]["h"] == 2
    assert reply["provider"] == "vodacom"
    assert reply["in_reply_to"] == accepted["message_id"]


@in_turn(
    ("msg", "path", "detail"),
    [
        ("text", "msg", "expected an object, got 'text'"),
        (
            {"session_event": "start"},
            "msg.session_event",
            "expected null, new, resume or close, got 'start'",
        ),
        ({"content": 5}, "msg.content", "expected a string or null, got 5"),
        ({"from_addr": ["x"]}, "msg.from_addr", "expected a string"),
        ({"from_addr": "x" * 500}, "msg.from_addr", "expected a string of at most 400 characters"),
        ({"message_id": ""}, "msg.message_id", "expected a string of 1 to 200 characters, got ''"),
        ({"message_id": 7}, "msg.message_id", "expected a string of 1 to 200 characters, got 7"),
        ({"timestamp": "yesterday"}, "msg.timestamp", "expected a date"),
        ({"timestamp": "2013-13-24 14:01:41"}, "msg.timestamp", "expected a date"),
        ({"helper_metadata": []}, "msg.helper_metadata", "expected an object, got []"),
        ({"message_version": "2"}, "msg.message_version", "expected '20110921'"),
        ({"message_type": "event"}, "msg.message_type", "expected 'user_message'"),
    ],
)
async def test_a_bad_message_is_rejected_with_the_field(
    service: Service, msg: Any, path: str, detail: str
) -> None:
    """Code bad_message, the path, what was expected and what came; the connection goes on."""
    async with connect(service.gateway_url) as client:
        await client.send({"type": "inbound", "id": "x", "msg": msg})
        rejected = await client.expect("rejected")
        assert (rejected["id"], rejected["code"], rejected["path"], rejected["retry_after"]) == (
            "x",
            "bad_message",
            path,
            None,
        )
        assert rejected["detail"].startswith(detail), rejected
        outcome, _ = await client.say("still there")
        assert outcome["outcome"] == "ok"


@in_turn(
    ("event", "path"),
    [
        ({}, "event.event_type"),
        ({"event_type": "ack"}, "event.user_message_id"),
        ({"event_type": "bounce", "user_message_id": "m"}, "event.event_type"),
        ({"event_type": "ack", "user_message_id": "m"}, "event.sent_message_id"),
        ({"event_type": "nack", "user_message_id": "m", "nack_reason": None}, "event.nack_reason"),
        (
            {"event_type": "delivery_report", "user_message_id": "m", "delivery_status": "lost"},
            "event.delivery_status",
        ),
    ],
)
async def test_a_bad_event_is_rejected_with_the_field(
    service: Service, event: Any, path: str
) -> None:
    """Each type of event has a field that it needs."""
    async with connect(service.gateway_url) as client:
        await client.send({"type": "event", "id": "x", "event": event})
        rejected = await client.expect("rejected")
        assert (rejected["code"], rejected["path"]) == ("bad_message", path)


async def test_dates_of_both_kinds_become_vumi_dates(service: Service, folder: Folder) -> None:
    """RFC 3339 with an offset is converted to UTC; what the app sees is a Vumi date."""
    (folder.path / "phone.js").write_text(
        f"api.on_inbound_message = function (command) {{ {REPLY % 'command.msg.timestamp'} }};"
    )
    await service.reload()
    async with connect(service.gateway_url) as client:
        for given, seen in (
            ("2013-04-24 14:01:41.803693", "2013-04-24 14:01:41.803693"),
            ("2013-04-24 14:01:41", "2013-04-24 14:01:41.000000"),
            ("2013-04-24T14:01:41+02:00", "2013-04-24 12:01:41.000000"),
            ("2013-04-24T14:01:41.5Z", "2013-04-24 14:01:41.500000"),
        ):
            _, replies = await client.say("x", timestamp=given)
            assert replies[0]["content"] == seen


async def test_a_repeated_id_is_a_duplicate_and_runs_once(service: Service) -> None:
    """Also on another connection."""
    async with connect(service.gateway_url) as client:
        await client.send(inbound("m1"))
        await client.expect("outcome", message_id="m1")
        await client.send(inbound("m1"))
        assert (await client.expect_that(lambda f: f["type"] == "accepted" and f["duplicate"]))[
            "message_id"
        ] == "m1"
    async with connect(service.gateway_url) as client:
        await client.send(inbound("m1"))
        assert (await client.expect("accepted"))["duplicate"] is True
        await client.send(inbound("m2"))
        await client.expect("outcome", message_id="m2")
        assert [f["msg"]["in_reply_to"] for f in client.frames if f["type"] == "outbound"] == ["m2"]


async def test_credit_is_spent_and_granted(service: Service) -> None:
    """Without credit a message is rejected as overloaded; credit comes back as runs end, and then
    messages are taken again.
    """
    async with connect(service.gateway_url, "slow") as client:
        for n in range(6):
            await client.send(inbound(f"m{n}", from_addr=str(n)))
        rejected = [await client.expect("rejected", id=f"g-m{n}") for n in (4, 5)]
        assert all(
            (frame["code"], frame["retry_after"]) == ("overloaded", 1.0) for frame in rejected
        )
        assert (await client.expect("credit"))["inbound"] == 2
        await client.expect("credit")
        await client.send(inbound("m4"))
        await client.expect("outcome", message_id="m4")


async def test_a_client_that_ignores_credit_is_closed(service: Service) -> None:
    """After as many messages without credit as the credit was."""
    async with connect(service.gateway_url, "slow") as client:
        with suppress(ConnectionClosed):
            for n in range(20):
                await client.send(inbound(f"m{n}"))
        assert await client.expect_close() == 4429


async def test_a_full_queue_rejects(folder: Folder) -> None:
    """pool.queue messages wait; more are overloaded, and nothing of them is kept."""
    folder.app("phone", "", "pool = { queue = 2, max_processes = 1 }")
    async with running(folder) as service, connect(service.gateway_url) as client:
        for n in range(5):
            await client.send(inbound(f"m{n}", from_addr=str(n)))
            await client.expect_that(lambda f: f["type"] in ("accepted", "rejected"))
        assert service.dispatcher.waiting("phone") == 2
        rows = [place async for place, _ in service.stores.journal.unfinished("acct", "phone")]
        assert len(rows) == 3


async def test_the_messages_of_one_user_are_handled_in_order(folder: Folder) -> None:
    """A user's next message waits for the run of the one before; other users' run beside it: a0
    does not end before b0 was there.
    """
    javascript = """
    var setTimeout = require('timers').setTimeout;
    api.on_inbound_message = function (command) {
        var name = command.msg.content;
        function end() { api.log_info('end ' + name, function () { api.done(); }); }
        function wait() {
            api.request('kv.get', {key: 'b0'}, function (reply) {
                if (reply.value) end(); else setTimeout(wait, 20);
            });
        }
        api.log_info('begin ' + name, function () {
            if (name === 'a0') wait();
            else api.request('kv.set', {key: name, value: 1}, end);
        });
    };"""
    folder.app("phone", javascript, 'modules = ["timers"]')
    async with running(folder) as service, connect(service.gateway_url) as client:
        for n in range(4):
            for user in "ab":
                await client.send(inbound(f"{user}{n}", from_addr=user, content=f"{user}{n}"))
        for n in range(4):
            for user in "ab":
                await client.expect("outcome", 60, message_id=f"{user}{n}", outcome="ok")
        lines = [
            entry.message
            for entry in reversed(await service.stores.logbook.newest("acct", "phone", 100))
        ]
    for user in "ab":
        own = [line for line in lines if line.split()[1][0] == user]
        assert own == [f"{word} {user}{n}" for n in range(4) for word in ("begin", "end")]


async def test_a_channel_without_an_app_rejects(service: Service) -> None:
    """It is for outbound only."""
    async with connect(service.gateway_url, "nobody") as client:
        await client.send(inbound("m1"))
        rejected = await client.expect("rejected")
        assert (rejected["code"], rejected["detail"]) == ("no_app", "channel nobody has no app")


async def test_a_run_outlives_the_connection_that_brought_its_message(service: Service) -> None:
    """The client leaves at once; the reply waits for the next."""
    async with connect(service.gateway_url) as client:
        await client.send(inbound("m1"))
        await client.expect("accepted")
    async with connect(service.gateway_url) as client:
        assert (await client.expect("outbound"))["msg"]["in_reply_to"] == "m1"


async def test_events_reach_the_app_as_configured(folder: Folder) -> None:
    """always: they do; never and by default: they do not, and the log says so; app: as its own JSON
    config says.
    """
    event = {"event_type": "ack", "user_message_id": "u1", "sent_message_id": "s1"}
    handler = (
        "api.on_inbound_event = function (command) {"
        " api.log_info('event ' + command.msg.event_type, function () { api.done(); }); };"
    )
    cases = {
        "always": ('events = "always"', "event ack"),
        "never": ('events = "never"', "Ignoring event for conversation: never"),
        "default": ("", "Ignoring event for conversation: default"),
        "wants": ("config = { config = '{\"process_events\": true}' }", "event ack"),
        "broken": ("config = { config = '{' }", "The config key 'config' is not JSON"),
    }
    for name, (more, _) in cases.items():
        folder.app(name, handler, more)
    async with running(folder) as service:
        for name, (_, logged) in cases.items():
            async with connect(service.gateway_url, name) as client:
                await client.send({"type": "event", "id": "1", "event": event | {"event_id": name}})
                accepted = await client.expect("accepted")
                assert accepted["event_id"] == name
                if logged == "event ack":
                    assert (await client.expect("outcome"))["event_id"] == name
                with trio.fail_after(60):
                    while not (entries := await service.stores.logbook.newest("acct", name, 10)):
                        await trio.sleep(0.02)
                assert entries[0].message.startswith(logged)
                await client.send({"type": "event", "id": "2", "event": event | {"event_id": name}})
                assert (await client.expect("accepted", id="2"))["duplicate"] is True
