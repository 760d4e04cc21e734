"""One message that cannot be read is rejected, and is nobody else's business; what gets in gets all
the way to the app.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from resources.messages import BadMessage, complete_event, complete_message, shown
from resources.stores.identity import MessageIds, Sender
from resources.stores.statistics import STATUS
from supervisor.gateway import frames
from supervisor.service import Service

from ...gateway_client import connect
from ...service import REPLY, Folder, running


def nested(levels: int, inner: str = "1") -> str:
    return "[" * levels + inner + "]" * levels


def an_inbound(msg: str, frame_id: str = "x") -> str:
    return f'{{"type":"inbound","id":"{frame_id}","msg":{msg}}}'


UNREADABLE = [
    (an_inbound('{"x":1e999}'), "msg"),
    (an_inbound('{"helper_metadata":{"a":[{"b":-1e400}]}}'), "msg"),
    (an_inbound('{"x":NaN}'), "msg"),
    (an_inbound('{"x":[Infinity,-Infinity]}'), "msg"),
    (an_inbound("NaN"), "msg"),
    (an_inbound('{"x":' + "9" * 5000 + "}"), "msg"),
    (an_inbound('{"x":' + nested(3000) + "}"), "msg"),
    (an_inbound(nested(63)), "msg"),
    (an_inbound('{"a":' * 70 + "1" + "}" * 70), "msg"),
    (an_inbound('{"x":"tab\there"}'), "msg"),
    (an_inbound('{"x":01}'), "msg"),
    (an_inbound("{'x':1}"), "msg"),
    (an_inbound('{"x":1,}'), "msg"),
    (an_inbound('{"x":"\\u12"}'), "msg"),
    (an_inbound('{"x":"' + "[" * 3000 + '","y":1e999}'), "msg"),
    ('{"msg":{"x":' + nested(100) + '},"type":"inbound","id":"x"}', "msg"),
    ('{"msg":{"x":NaN, "id":"wrong"},"id":"x","type":"inbound"}', "msg"),
    ('{"id":"x","id2":"y","type":"event","event":{"x":1e999}}', "event"),
    ('{"type":"event","id":"x","event":[[NaN]]}', "event"),
    ('{"type":"event","id":"x"}', "event"),
    ('{"type":"inbound","id":"x"}', "msg"),
    ('{"type":"inbound","id":"x","msg":{},"endpoint":5}', "endpoint"),
    ('{"type":"inbound","id":"x","msg":{},"endpoint":null}', "endpoint"),
    ('{"type":"inbound","id":"x","msg":{},"endpoint":""}', "endpoint"),
    (an_inbound(nested(60)), "msg"),
    (an_inbound('{"content":' + nested(50, '"' + "y" * 5000 + '"') + "}"), "msg.content"),
    (an_inbound('{"message_id":' + "7" * 4000 + "}"), "msg.message_id"),
    (an_inbound('{"from_addr":{"' + "k" * 5000 + '":[]}}'), "msg.from_addr"),
    (an_inbound('{"timestamp":"٢٠١٣-٠٤-٢٤ 14:01:41"}'), "msg.timestamp"),
    (an_inbound('{"timestamp":"0001-01-01T00:00:00+14:00"}'), "msg.timestamp"),
    (
        (
            '{"type":"event","id":"x","event":{"event_type":"ack","sent_message_id":"s",'
            '"user_message_id":"u","timestamp":"9999-12-31T23:59:59-14:00"}}'
        ),
        "event.timestamp",
    ),
]


async def test_one_bad_message_is_rejected_and_the_connection_goes_on(service: Service) -> None:
    """With its id and the field, whatever is wrong in it; each costs nothing."""
    async with connect(service.gateway_url) as client:
        for text, path in UNREADABLE:
            await client.send(text)
            rejected = await client.expect("rejected", id="x")
            assert (rejected["code"], rejected["path"], rejected["retry_after"]) == (
                "bad_message",
                path,
                None,
            ), text[:99]
            assert 0 < len(rejected["detail"]) < 300, text[:99]
        assert (await client.say("still there"))[0]["outcome"] == "ok"


@pytest.mark.parametrize(
    "text",
    [
        b"oops",
        b"",
        b"[]",
        b"null",
        b'{"type":"inbound","msg":{"x":NaN}}',
        b'{"type":"inbound","id":7,"msg":{"x":1e999}}',
        b'{"type":"ack","delivery":1e999}',
        b'{"type":"ack","delivery":true}',
        b'{"type":["inbound"],"id":"x","msg":NaN}',
        b'{"id":"x","msg":{"x":1e999}}',
        b'"inbound"',
        b"[" * 8000,
        b'{"a":' * 1200,
        b'"' * 8000,
        b'{"type":"inbound","id":"x"' + b"[" * 7000,
        b'{"type":"welcome","id":"x","msg":NaN}',
        b"\xef\xbb\xbf{}",
        b'{"type":"inbound","id":"x",msg:1}' + b"]" * 99,
    ],
)
def test_what_is_no_frame_is_a_protocol_error(text: bytes) -> None:
    """No JSON, or nothing to answer to; never another exception."""
    try:
        frame = frames.decode(text)
    except frames.BadFrame as bad:
        assert str(bad)
    else:
        assert isinstance(frame, frames.Malformed)
        assert frame.id == "x"


async def test_half_a_surrogate_pair_becomes_a_replacement_character(service: Service) -> None:
    """What JSON.stringify makes of a text cut in an emoji: in content, ids, metadata and names;
    whole pairs stay.
    """
    async with connect(service.gateway_url) as client:
        fields = {
            "session_event": "new",
            "message_id": "m\ud83d",
            "from_addr": "\udc00+27",
            "extra\ud800": ["\ud83d\ude00"],
        }
        msg = json.dumps(
            {"content": "cut \ud83d.", "transport_metadata": {"\ud83d": "\ude00\ud83d"}, **fields}
        )
        await client.send(an_inbound(msg, "g\\ud83d"))
        accepted = await client.expect("accepted")
        assert (accepted["id"], accepted["message_id"]) == ("g\ufffd", "m\ufffd")
        reply = (await client.expect("outbound"))["msg"]
        assert (reply["content"], reply["to_addr"]) == ("you said cut \ufffd.", "\ufffd+27")
        assert reply["transport_metadata"] == {"\ufffd": "\ufffd\ufffd"}
        await client.send(
            an_inbound(
                json.dumps({"content": "\U0001f600 \\ud83d \\\\ud83d", "session_event": "new"})
            )
        )
        assert (await client.expect("outbound"))["msg"][
            "content"
        ] == "you said \U0001f600 \\ud83d \\\\ud83d"


async def test_what_gets_in_gets_all_the_way(service: Service) -> None:
    """The deepest, the longest and the oddest that a frame may hold: through the journal, to the
    app and back in its reply.
    """
    odd: list[Any] = [
        json.loads(nested(61)),
        2**64,
        -(2**70),
        10**300,
        5e-324,
        1.7976931348623157e308,
        "\x00\x7f\u2028\ufffe\U0010ffff",
        {"": {"__proto__": 1, "constructor": None}},
        "x" * 3000,
        [[]] * 300,
    ]
    async with connect(service.gateway_url) as client:
        for value in odd:
            _, (reply,) = await client.say(
                "x",
                "new",
                transport_metadata={"v": value} if value is not odd[0] else {},
                extra=value,
            )
            if value is not odd[0]:
                assert reply["transport_metadata"] == {"v": value}
    left = [one async for one in service.stores.journal.left("acct", "phone")]
    assert left == []


async def test_only_we_make_push_triggers(folder: Folder) -> None:
    """A client that says so is not believed: the answer is a reply to its message, over the channel
    that it came from.
    """
    folder.app("phone", REPLY % "'hi'", 'endpoints = { default = "sms" }')
    folder.text += "[channels.sms]\n"
    async with running(folder) as service, connect(service.gateway_url) as client:
        for value in (True, "yes", {"a": 1}):
            _, (reply,) = await client.say(
                "x", "new", from_addr="+2782PREMIUM", inbound_push_trigger=value
            )
            assert reply["in_reply_to"] is not None
        assert await service.stores.outbox.waiting("sms") == 0
    assert "inbound_push_trigger" not in complete_message(
        {"inbound_push_trigger": True}, transport_name="a", transport_type=None, endpoint="default"
    )


async def test_a_delivery_status_counts_in_delivery_reports_only(service: Service) -> None:
    """Elsewhere it may be anything, and is no name of a counter."""
    sender = Sender("acct", "phone")
    message_id = service.stores.outbox.ids.new("phone", sender)
    event = {"event_type": "ack", "user_message_id": message_id, "sent_message_id": "s"}
    async with connect(service.gateway_url) as client:
        for n, status in enumerate([True, "x" * 5000, {"a": []}, 7, "delivered", "", None]):
            await client.send(
                {"type": "event", "id": f"e{n}", "event": event | {"delivery_status": status}}
            )
            await client.expect("accepted", id=f"e{n}")
        for n, wrong in enumerate([True, "lost", None, 1, ["delivered"]]):
            report = event | {"event_type": "delivery_report", "delivery_status": wrong}
            await client.send({"type": "event", "id": f"r{n}", "event": report})
            assert (await client.expect("rejected", id=f"r{n}"))["path"] == "event.delivery_status"
    counts = await service.stores.redis.execute("HKEYS", "jsbox:{acct}:stats:phone")
    assert {name.decode() for name in counts} <= {"out", "in", *STATUS}
    assert (await service.stores.statistics.progress(sender))["ack"] == 7


async def test_an_event_goes_to_the_app_that_sent_the_message(folder: Folder) -> None:
    """Not to the channel's own, nor to another that sends over the channel; one that nobody sent
    goes to the channel's.
    """
    handler = (
        "api.on_inbound_event = function (command) { api.log_info('event', function () {"
        " api.done(); }); };"
    )
    folder.app("own", handler, 'events = "always"', channel="phone")
    for name in ("first", "second"):
        folder.app(name, handler, 'events = "always"\nendpoints = { default = "phone" }')
    async with running(folder) as service, connect(service.gateway_url) as client:

        async def went_to(message_id: str) -> set[str]:
            before = {
                name: len(await service.stores.logbook.newest("acct", name, 99))
                for name in ("own", "first", "second")
            }
            event = {"event_type": "ack", "user_message_id": message_id, "sent_message_id": "s"}
            await client.send(
                {"type": "event", "id": message_id, "event": event | {"event_id": message_id}}
            )
            await client.expect("outcome", event_id=message_id)
            return {
                name
                for name in before
                if len(await service.stores.logbook.newest("acct", name, 99)) > before[name]
            }

        ids = service.stores.outbox.ids
        for name in ("second", "first", "own"):
            assert await went_to(ids.new("phone", Sender("acct", name))) == {name}
        for foreign in (
            ids.new("phone", Sender("other", "first")),
            ids.new("sms", Sender("acct", "first")),
            "f" * 32,
            "x",
        ):
            assert await went_to(foreign) == {"own"}


def test_ids_are_of_one_sender_and_one_channel() -> None:
    """And of one service."""
    ids, sender = MessageIds(b"secret"), Sender("acct", "app")
    message_id = ids.new("phone", sender)
    assert ids.is_from(message_id, "phone", sender)
    assert not ids.is_from(message_id, "sms", sender)
    assert not ids.is_from(message_id, "phone", Sender("acct", "other"))
    assert not ids.is_from(message_id, "phone", Sender("other", "app"))
    assert not MessageIds(b"other").is_from(message_id, "phone", sender)
    for wrong in (
        "",
        "zz",
        message_id[:-2],
        message_id + "00",
        message_id[:-1] + "\u0660",
        "\ud800",
    ):
        assert not ids.is_from(wrong, "phone", sender)


def deep(levels: int) -> Any:
    value: Any = 1
    for n in range(levels):
        value = [value] if n % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        deep(100_000),
        10**6000,
        -(10**6000),
        ["x" * 10**6] * 100,
        {str(n): n for n in range(10**5)},
        "\ud800" * 500,
        float("nan"),
        [1] * 10**6,
    ],
    ids=["deep", "long", "negative", "texts", "names", "halves", "nan", "list"],
)
def test_any_value_can_be_shown(value: Any) -> None:
    """Short, and at once."""
    text = shown(value)
    assert 0 < len(text) <= 80
    text.encode()


def test_what_is_shown_is_what_it_was() -> None:
    """As long as it is short."""
    assert [shown(one) for one in (True, None, False, 5, "x", [1, "a"], {"a": 1.5}, [])] == [
        "true",
        "null",
        "false",
        "5",
        "'x'",
        "[1, 'a']",
        "{'a': 1.5}",
        "[]",
    ]
    assert shown("y" * 100) == "'" + "y" * 76 + "..."


def test_events_say_where_their_date_is_wrong() -> None:
    """event.timestamp, not msg.timestamp."""
    event = {
        "event_type": "ack",
        "sent_message_id": "s",
        "user_message_id": "u",
        "timestamp": "2013-99-01 00:00:00",
    }
    with pytest.raises(BadMessage) as caught:
        complete_event(event, transport_name="a", transport_type=None)
    assert caught.value.path == "event.timestamp"
