"""Junebug's words and Vumi's, without I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.messages import BadMessage, complete_event, complete_message
from supervisor.gateway.junebug import words

from ...junebug import message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([
    "to", "from", "group", "message_id", "channel_id", "timestamp", "reply_to", "content",
    "channel_data", "event_type", "event_details",
])  # fmt: skip


def test_a_message_keeps_what_it_says() -> None:
    """Session words go where Vumi has them; the rest of channel_data is helper_metadata."""
    data = {"session_event": "resume", "continue_session": True, "voice": {"speech_url": "x"}}
    found = words.message_from(message("m1", reply_to="o1", channel_data=data))
    whole = complete_message(found, transport_name="n", transport_type="ussd", endpoint="default")
    assert whole["session_event"] == "resume"
    assert whole["helper_metadata"] == {"voice": {"speech_url": "x"}}
    assert (whole["from_addr"], whole["to_addr"], whole["in_reply_to"]) == (
        "+27821",
        "*120*1#",
        "o1",
    )
    assert (whole["timestamp"], whole["transport_type"]) == ("2026-01-02 03:04:05.678900", "ussd")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"event_type": "submitted"}, {"event_type": "ack", "sent_message_id": "jb1"}),
        ({"event_type": "rejected"}, {"nack_reason": words.NO_REASON}),
        (
            {"event_type": "rejected", "event_details": {"reason": {"a": 1}}},
            {"nack_reason": '{"a":1}'},
        ),
        ({"event_type": "rejected", "event_details": "odd"}, {"nack_reason": words.NO_REASON}),
        ({"event_type": "delivery_pending"}, {"delivery_status": "pending"}),
        ({"event_type": "delivery_succeeded"}, {"delivery_status": "delivered"}),
    ],
)  # fmt: skip
def test_each_event(body: dict[str, Any], said: dict[str, str]) -> None:
    """What it becomes is an event that Vumi's apps know."""
    event = words.event_from(body | {"message_id": "jb1"})
    whole = complete_event(event, transport_name="n", transport_type=None)
    assert {key: whole[key] for key in said} == said


def test_an_event_is_the_same_one_only_if_it_says_the_same() -> None:
    """Its id follows from the message, the kind and the time."""
    one = {"event_type": "submitted", "message_id": "a", "timestamp": "t"}
    ids = {
        words.event_from(one | more)["event_id"]
        for more in ({}, {"timestamp": "u"}, {"message_id": "b"}, {"event_type": "rejected"})
    }
    assert len(ids) == 4
    assert words.event_from(dict(one))["event_id"] in ids


@given(JSON | st.dictionaries(FIELDS, JSON))
def test_any_json_is_taken_or_refused(body: Any) -> None:
    """With BadMessage, and nothing else."""
    for read in (words.message_from, words.event_from):
        try:
            read(body)
        except BadMessage as bad:
            assert str(bad)
