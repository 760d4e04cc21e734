"""Why a command is refused: the reason is true, and says what came."""

from __future__ import annotations

from typing import Any

import pytest

from resources import http, kv, messagestore, outbound
from resources.contract import Refused
from resources.parameters import command_converter

CONVERTER = command_converter()


def request(kind: type, **fields: Any) -> Any:
    return CONVERTER.get_structure_hook(kind)(fields, kind)


SEND = {"content": "x", "to_addr": "1"}


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (kv.Set, {"key": "k", "seconds": 10_000_000_000},
            "'seconds' must be an integer of 0 to 3153600000, or null, not 10000000000"),
        (kv.Set, {"key": "k", "seconds": -1},
            "'seconds' must be an integer of 0 to 3153600000, or null, not -1"),
        (kv.Set, {"key": "k", "seconds": 1.5},
            "'seconds' must be an integer of 0 to 3153600000, or null, not 1.5"),
        (http.Request, {}, "No URL given"),
        (http.Request, {"url": None}, "No URL given"),
        (http.Request, {"url": 5}, "No URL given"),
        (http.Request, {"url": ["http://x"]}, "'url' must be a string, not ['http://x']"),
        (http.Request, {"url": {"href": "x"}}, "'url' must be a string, not {'href': 'x'}"),
        (http.Request, {"url": True}, "'url' must be a string, not true"),
        (outbound.SendTo, SEND | {"endpoint": None}, "'endpoint' must be given in sends."),
        (outbound.SendTo, SEND | {"endpoint": 5},
            "'endpoint' must be given in sends, as a string, not 5."),
        (outbound.SendTo, {"content": "x"}, "'to_addr' must be given in sends."),
        (outbound.SendTo, {"content": "x", "to_addr": None}, "'to_addr' must be given in sends."),
        (outbound.SendTo, {"content": "x", "to_addr": 27},
            "'to_addr' must be given in sends, as a string, not 27."),
        (outbound.Reply, {"content": "x", "in_reply_to": {}},
            "'in_reply_to' must be given in replies, as a string, not {}."),
    ],
)  # fmt: skip
def test_reasons_say_the_truth(kind: type, fields: dict[str, Any], reason: str) -> None:
    """Of a missing field that it is missing, of a wrong one what is wrong with it."""
    with pytest.raises(Refused) as raised:
        request(kind, **fields)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    "seconds",
    ["1_0", " 60", "60\n", "\u0661", "", "6e1", "60.9", "0", "604801", "9" * 5000, 0.9, 604_801,
        float("nan"), float("inf"), True, None, [60]],
)  # fmt: skip
def test_what_is_no_sample_time(seconds: Any) -> None:
    """Texts in plain digits, and numbers in range, are the only ones."""
    with pytest.raises(Refused, match="'sample_time' must be 1 to 604800 seconds, not "):
        request(messagestore.AskThroughput, sample_time=seconds)
    for right in (1, 60.9, "60", "0060", 604_800):
        request(messagestore.AskThroughput, sample_time=right)
