"""What an app did is compared field by field."""

from __future__ import annotations

from typing import Any

import pytest

from resources.stores.recordings import Exchange, Recording
from supervisor.chats.bench import with_overrides
from supervisor.chats.looking import Done, contains, difference


@pytest.mark.parametrize(
    ("expected", "got", "fits"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": {"b": []}}, {"a": {"b": []}}, True),
        ({"a": 1}, {"b": 1}, False),
        ({}, [], False),
        ([1, {"a": 2}], [1, {"a": 2, "b": 3}], True),
        ([1], [1, 2], False),
        (True, 1, False),
        (1, 1.0, True),
        ("1", 1, False),
    ],
)
def test_an_object_may_have_more_than_is_expected(expected: Any, got: Any, fits: bool) -> None:
    assert contains(expected, got) is fits


def done(*exchanges: tuple[str, dict[str, Any], bool]) -> Done:
    found = Done()
    found.add(
        Recording(
            account="a", app="a", channel="c", kind="message", id="1", payload={}, began=0,
            outcome="ok", detail="", source="",
            exchanges=[Exchange(name, 0, asked, {"success": ok}) for name, asked, ok in exchanges],
        )
    )  # fmt: skip
    return found


POST = {
    "url": "http://hub/api?page=2&q=",
    "headers": {"Authorization": ["Token x"]},
    "data": '{"id": 7, "name": "Thandi"}',
}


@pytest.mark.parametrize(
    ("what", "fits"),
    [
        ({"url": "http://hub/api"}, True),
        ({"url": "http://hub/a*", "method": "post"}, True),
        ({"url": "http://hub/api?page=2&q="}, True),
        ({"url": "http://hub/api?page=3"}, False),
        ({"method": "GET"}, False),
        ({"params": {"page": 2, "q": ""}}, True),
        ({"params": {"page": 1}}, False),
        ({"json": {"id": 7}}, True),
        ({"json": {"id": 8}}, False),
        ({"body": '"name": "Th'}, True),
        ({"headers": {"authorization": "Token x"}}, True),
        ({"headers": {"authorization": "Token y"}}, False),
        ({"url": "http://hub/api", "times": 1}, True),
        ({"url": "http://hub/api", "times": 2}, False),
        ({"url": "http://other/", "times": 0}, True),
    ],
)
def test_requests(what: dict[str, Any], fits: bool) -> None:
    found = done(("http.post", POST, True)).by_kind["http"]
    assert (difference("http", what, found) == []) is fits


def test_what_was_refused_was_not_sent_but_was_asked() -> None:
    """A metric or a message that the app could not send does not count; a request does: what the
    back end answers is another matter.
    """
    found = done(
        ("metrics.fire", {"metric": "a", "value": "1.5", "agg": "sum"}, False),
        ("metrics.fire", {"metric": "b", "value": "1.5", "agg": "sum"}, True),
        ("outbound.send_to", {"to_addr": "+1", "content": "no"}, False),
        ("outbound.send_to_endpoint", {"to_addr": "+2", "content": "yes", "endpoint": "sms"}, True),
        ("http.get", {"url": "http://x/"}, False),
        ("outbound.reply_to", {"content": "a reply"}, True),
    ).by_kind
    assert found["metric"] == [{"store": "default", "metric": "b", "value": "1.5", "agg": "sum"}]
    assert not difference("metric", {"metric": "b", "value": 1.5}, found["metric"])
    assert found["sms"] == [{"to": "+2", "content": "yes", "endpoint": "sms"}]
    assert [one["url"] for one in found["http"]] == ["http://x/"]


def test_the_nearest_is_shown_first_and_what_was_expected_before_it() -> None:
    found = [{"to": "+1", "content": "Hello"}, {"to": "+2", "content": "Goodbye"}]
    lines = difference("sms", {"to": "+2", "content": "Bye!"}, found)
    assert lines == [
        '- {"to": "+2", "content": "Bye!"}',
        '+ {"to": "+2", "content": "Goodbye"}',
        '+ {"to": "+1", "content": "Hello"}',
    ]
    assert difference("log", {"message": "x"}, []) == ['- {"message": "x"}', "+ (no log line)"]


def test_a_table_is_merged_into_the_apps_json_and_a_text_replaces_it() -> None:
    own = {"config": '{"name": "a", "deep": {"x": 1, "y": 2}}', "other": "kept", "text": "old"}
    merged = with_overrides(own, {"config": {"deep": {"y": 3}}, "text": "new", "list": [1]})
    assert merged == {
        "config": '{"name": "a", "deep": {"x": 1, "y": 3}}',
        "other": "kept",
        "text": "new",
        "list": "[1]",
    }
