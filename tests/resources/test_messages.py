"""Vumi's messages and events: what is filled in, what is kept, how replies are made."""

from __future__ import annotations

import re

import pytest

from resources.messages import (
    complete_event,
    complete_message,
    delivery_class,
    for_app,
    push_trigger,
    reply,
    send,
)

DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
FIELDS = {
    "message_version", "message_type", "timestamp", "message_id", "in_reply_to", "to_addr",
    "from_addr", "to_addr_type",
    "from_addr_type", "content", "session_event", "transport_name", "transport_type",
    "transport_metadata", "helper_metadata",
    "routing_metadata", "group", "provider",
}  # fmt: skip


def inbound(**fields: object) -> dict[str, object]:
    return complete_message(
        fields, transport_name="phone", transport_type="ussd", endpoint="default"
    )


def test_every_field_is_there() -> None:
    """Also when the gateway gave none."""
    message = inbound()
    assert set(message) == FIELDS
    assert DATE.fullmatch(message["timestamp"])
    assert len(message["message_id"]) == 32
    assert (message["transport_name"], message["transport_type"]) == ("phone", "ussd")
    assert message["routing_metadata"] == {"endpoint_name": "default"}


def test_what_the_gateway_gives_wins_and_unknown_fields_stay() -> None:
    """Its own transport_name, its endpoint in routing_metadata, its own extras."""
    message = inbound(transport_name="own", extra=[1], routing_metadata={"endpoint_name": "sms"})
    assert (message["transport_name"], message["extra"], message["routing_metadata"]) == (
        "own",
        [1],
        {"endpoint_name": "sms"},
    )


def test_apps_see_their_own_conversation_and_the_delivery_class() -> None:
    """In helper_metadata; what the gateway put there stays, a forged `go` does not."""
    seen = for_app(
        inbound(helper_metadata={"x": 1, "go": {"user_account": "other"}}), "acct", "app"
    )
    go = {"user_account": "acct", "conversation_type": "jsbox", "conversation_key": "app"}
    assert seen["helper_metadata"] == {"x": 1, "go": go, "delivery_class": "ussd"}


@pytest.mark.parametrize(
    ("transport", "expected"),
    [("smpp", "sms"), ("sms", "sms"), ("ussd", "ussd"), ("twitter", "twitter"), ("xmpp", "gtalk"),
        ("mxit", "mxit"), ("wechat", "wechat"),
     (None, "sms"), ("voice", "sms"), ("irc", "sms"), ("http_api", "sms")],
)  # fmt: skip
def test_delivery_classes(transport: str | None, expected: str) -> None:
    """By transport type; sms for everything else."""
    assert delivery_class(transport) == expected


def test_a_reply_swaps_the_addresses_and_keeps_the_rest() -> None:
    """To the sender, over the same transport and endpoint, in reply."""
    to = inbound(
        from_addr="a",
        to_addr="b",
        from_addr_type="msisdn",
        group="#g",
        provider="p",
        transport_metadata={"t": 1},
    )
    made = reply(to, "hi", close=True, to_group=False, helper_metadata={"h": 1})
    assert set(made) == FIELDS - {"message_id"}
    assert (made["to_addr"], made["from_addr"], made["to_addr_type"], made["in_reply_to"]) == (
        "a",
        "b",
        "msisdn",
        to["message_id"],
    )
    assert (made["session_event"], made["group"], made["provider"], made["transport_metadata"]) == (
        "close",
        "#g",
        "p",
        {"t": 1},
    )


def test_a_reply_to_a_group_has_no_address_of_its_own() -> None:
    """Unless there is no group."""
    assert (
        reply(
            inbound(from_addr="a", group="#g"), "x", close=False, to_group=True, helper_metadata={}
        )["to_addr"]
        is None
    )
    assert (
        reply(inbound(from_addr="a"), "x", close=False, to_group=True, helper_metadata={})[
            "to_addr"
        ]
        == "a"
    )


def test_a_send_comes_from_nowhere() -> None:
    """No sender, no transport: the gateway fills them in."""
    made = send("a", None, endpoint="sms", helper_metadata={})
    assert set(made) == FIELDS - {"message_id"}
    assert [
        made[name]
        for name in (
            "from_addr",
            "transport_name",
            "transport_type",
            "in_reply_to",
            "session_event",
        )
    ] == [None] * 5
    assert made["routing_metadata"] == {"endpoint_name": "sms"}


def test_a_push_trigger_is_a_message_that_nobody_sent() -> None:
    """Marked, from the address, with nothing in it."""
    trigger = push_trigger("+27")
    assert trigger["inbound_push_trigger"] is True
    assert [
        trigger[name]
        for name in ("to_addr", "content", "transport_name", "transport_type", "session_event")
    ] == [None] * 5


def test_an_event_is_completed() -> None:
    """Ids, time and metadata are filled in; other fields stay."""
    event = complete_event(
        {"event_type": "ack", "user_message_id": "u", "sent_message_id": "s", "x": 1},
        transport_name="phone",
        transport_type="sms",
    )
    assert event["message_type"] == "event"
    assert len(event["event_id"]) == 32
    assert event["x"] == 1
